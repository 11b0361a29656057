"""The packed file, ``*.lmpack``: one small file with all that generating and scoring need."""

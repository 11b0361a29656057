"""What all features of the workbench share: the open session, what is read of it, what is kept."""

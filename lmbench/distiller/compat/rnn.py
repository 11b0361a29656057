"""``distiller.modules.rnn``."""

from lmbench.distiller.modules.cells import DistillerLSTMCell
from lmbench.distiller.modules.convert import convert_model_to_distiller_lstm
from lmbench.distiller.modules.recurrent import DistillerLSTM

from .table_optimizer import TABLE_OPTIMIZERS as TABLE_OPTIMIZERS
from .table_training import TableHistory as TableHistory
from .table_training import TableSettings as TableSettings
from .table_training import train_table as train_table

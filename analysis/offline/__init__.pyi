from .annotations import annotations_path as annotations_path
from .annotations import write_annotations as write_annotations
from .columns import COLUMNS as COLUMNS
from .reading import Rollout as Rollout
from .reading import read_rollouts as read_rollouts
from .rollout_scorer import RolloutScorer as RolloutScorer
from .trace_settings import TraceSettings as TraceSettings
from .tracing import trace_rollouts as trace_rollouts

from .diagnose import CHECKS as CHECKS
from .diagnose import diagnose as diagnose
from .evidence import Evidence as Evidence
from .finding import Diagnosis as Diagnosis
from .finding import Finding as Finding
from .thresholds import THRESHOLDS as THRESHOLDS
from .thresholds import Threshold as Threshold

from .measurement import gradient_noise as gradient_noise
from .measurement import standard_estimators as standard_estimators
from .moments import GradientNoise as GradientNoise

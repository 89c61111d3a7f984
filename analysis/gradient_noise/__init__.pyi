from .measurement import gradient_noise as gradient_noise
from .measurement import standard_estimators as standard_estimators
from .moments import GradientNoise as GradientNoise
from .per_prompt import PromptGradients as PromptGradients
from .per_prompt import prompt_gradients as prompt_gradients

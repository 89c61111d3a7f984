"""Recorded rollouts of any Hugging Face model, traced without training: the same run folder, the weights assumed.

A file of prompts, responses and rewards goes through the model once; what is recorded of each response token is what
the training loop records, and what named objectives would do to it follows on reading. Names are imported on first use,
so that the command line prints its help and refuses bad files without loading torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

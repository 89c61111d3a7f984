from .gguf_cache import ensure_gguf as ensure_gguf
from .gguf_cache import gguf_folder as gguf_folder
from .gguf_header import is_gguf as is_gguf
from .gguf_header import read_header as read_header

"""From an item's own text and pictures to features, joined by raw id."""

from promptmm_pyg.content.encoder import ContentEncoder
from promptmm_pyg.content.hashing import HashingTextEncoder
from promptmm_pyg.content.images import ImageEncoder
from promptmm_pyg.content.join import join_content
from promptmm_pyg.content.rows import ContentRows, encode_content
from promptmm_pyg.content.sentences import SentenceTransformerEncoder
from promptmm_pyg.content.sources import folder_contents, table_contents
from promptmm_pyg.content.vision_models import timm_encoder, torchvision_encoder

__all__ = [
    'ContentEncoder',
    'ContentRows',
    'HashingTextEncoder',
    'ImageEncoder',
    'SentenceTransformerEncoder',
    'encode_content',
    'folder_contents',
    'join_content',
    'table_contents',
    'timm_encoder',
    'torchvision_encoder',
]

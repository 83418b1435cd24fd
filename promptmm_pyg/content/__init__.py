"""From an item's own text and pictures to features, joined by raw id."""

from promptmm_pyg.content.encoder import ContentEncoder, SentenceTransformerEncoder
from promptmm_pyg.content.hashing import HashingTextEncoder
from promptmm_pyg.content.images import ImageEncoder, timm_encoder, torchvision_encoder
from promptmm_pyg.content.join import folder_contents, join_content, table_contents
from promptmm_pyg.content.rows import ContentRows, encode_content

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

"""Where weights come from: a hub id, a local folder, a GGUF file, or the package index; pinned by sha256."""

from tamis.models.catalogue import CATALOGUE, CatalogueModel, fetch, home, is_fetched
from tamis.models.resolve import resolve, template_of, training_folder

__all__ = [
    "CATALOGUE",
    "CatalogueModel",
    "fetch",
    "home",
    "is_fetched",
    "resolve",
    "template_of",
    "training_folder",
]

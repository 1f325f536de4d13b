"""tamis distils a large language model's judgement of harmful content into a small model."""

__version__ = "0.1.0"

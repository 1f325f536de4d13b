"""From what people corrected to the rows the next model learns from, and what to ask them next."""

from tamis.feedback.examples import Feedback, Gathered, Said, Truths, forget_text, gather, take, truths
from tamis.feedback.formats import FORMATS, read_feedback, read_texts, write_feedback
from tamis.feedback.selection import choose, disagreement, likelier, margin, novelty, shifted

__all__ = [
    "FORMATS",
    "Feedback",
    "Gathered",
    "Said",
    "Truths",
    "choose",
    "disagreement",
    "forget_text",
    "gather",
    "likelier",
    "margin",
    "novelty",
    "read_feedback",
    "read_texts",
    "shifted",
    "take",
    "truths",
    "write_feedback",
]

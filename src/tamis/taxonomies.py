"""Names that other moderation services give to harm, so that a policy can say which of its categories stand for them.

OpenAI: the 13 categories of `omni-moderation-latest` (platform.openai.com/docs/guides/moderation). Perspective: the
production, experimental and New York Times attributes (developers.perspectiveapi.com, "Attributes and languages").
"""

from __future__ import annotations

OPENAI = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
PERSPECTIVE = (
    "TOXICITY",
    "SEVERE_TOXICITY",
    "IDENTITY_ATTACK",
    "INSULT",
    "PROFANITY",
    "THREAT",
    "SEXUALLY_EXPLICIT",
    "FLIRTATION",
    "ATTACK_ON_AUTHOR",
    "ATTACK_ON_COMMENTER",
    "INCOHERENT",
    "INFLAMMATORY",
    "LIKELY_TO_REJECT",
    "OBSCENE",
    "SPAM",
    "UNSUBSTANTIAL",
)

TAXONOMIES = {"openai": OPENAI, "perspective": PERSPECTIVE}

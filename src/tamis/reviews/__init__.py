"""What people are asked about and what they say of it: a queue with leases, and verdicts that nothing overwrites.

An item is one question to one person. A blind second look and an appeal are items of their own, which refer to the
earlier one and are not for whoever judged it. A verdict is never changed: what is taken back is superseded by a row
that says so. Everything here is a plain function of a store, so that a page, a command and a test call the same.
"""

from tamis.reviews.desk import about, desk, held, last, leave, next_item, take
from tamis.reviews.quality import Dispute, Errors, Quality, quality
from tamis.reviews.queue import add_gold, appeal, count, fill, listing, queue, skip
from tamis.reviews.tables import Item, Judgement, Verdict, Wanted
from tamis.reviews.verdicts import exposure, judge, settle, undo, undo_batch, verdicts

__all__ = [
    "Dispute",
    "Errors",
    "Item",
    "Judgement",
    "Quality",
    "Verdict",
    "Wanted",
    "about",
    "add_gold",
    "appeal",
    "count",
    "desk",
    "exposure",
    "fill",
    "held",
    "judge",
    "last",
    "leave",
    "listing",
    "next_item",
    "quality",
    "queue",
    "settle",
    "skip",
    "take",
    "undo",
    "undo_batch",
    "verdicts",
]

"""What the teacher says, and how good it is."""

from tamis.teach.audit import audit
from tamis.teach.label import agreement_with_itself, label
from tamis.teach.members import Ensemble, Member, audit_together, label_together
from tamis.teach.teachers import TEACHERS, Teacher, local_teacher, make_teacher

__all__ = [
    "TEACHERS",
    "Ensemble",
    "Member",
    "Teacher",
    "agreement_with_itself",
    "audit",
    "audit_together",
    "label",
    "label_together",
    "local_teacher",
    "make_teacher",
]

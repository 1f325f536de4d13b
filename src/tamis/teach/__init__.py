"""What the teacher says, and how good it is."""

from tamis.teach.audit import audit
from tamis.teach.label import agreement_with_itself, label
from tamis.teach.teachers import TEACHERS, Teacher, local_teacher, make_teacher

__all__ = ["TEACHERS", "Teacher", "agreement_with_itself", "audit", "label", "local_teacher", "make_teacher"]

"""What is wrong with a message; the core reads recorded messages and knows the same reasons."""

from gen3r_core.messages.problems import REASONS, MessageError, Reason

__all__ = ["REASONS", "MessageError", "Reason"]

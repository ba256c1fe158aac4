"""What integration tests share: a stand-in for the model hub."""

from tests.support.stand_in_hub import silent_port, stand_in

__all__ = ["silent_port", "stand_in"]

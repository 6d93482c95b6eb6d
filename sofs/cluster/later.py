from sofs.runtime.later import Later

__all__ = ["Later"]

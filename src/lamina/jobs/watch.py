"""What a caller may follow of a running job."""


class Watcher:
    """Stages with a size in bytes, and lines of text. This one does nothing."""

    def stage(self, name: str, total_bytes: int) -> None:
        """A new stage begins; 0 bytes: its length is not known."""

    def advance(self, num_bytes: int) -> None:
        """So many bytes of the stage are done; called from any thread."""

    def tell(self, line: str) -> None:
        """Something a person should know now."""

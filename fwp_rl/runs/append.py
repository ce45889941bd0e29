"""A file that grows for as long as a run trains, by one whole record after the other."""

import contextlib
import io
import os
from pathlib import Path

__all__ = ["AppendedFile"]


class AppendedFile:
    """Appends records, each whole or not at all, and hands each to the operating system at once.

    The file is opened at the first record, and anew where it is gone from its path: what is
    written to a deleted file is lost.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: io.FileIO | None = None
        self._size = 0
        self._torn = False

    def append(self, record: bytes) -> bool:
        """Write a record; returns whether the file had to be made for it.

        OSError where that fails, as on a full disk. It may be tried again.
        """
        made = False
        if self._file is None or self.vanished():
            self.close()
            made = not self.path.exists()
            self._file = io.FileIO(self.path, "a")
            self._size, self._torn = os.fstat(self._file.fileno()).st_size, False
        if self._torn:  # half a record would spoil the next one
            self._file.truncate(self._size)
        self._torn = True
        left = memoryview(record)
        while left:
            left = left[self._file.write(left) :]
        self._size, self._torn = self._size + len(record), False
        return made

    def vanished(self) -> bool:
        """Whether the file that was opened is no longer at its path: it, or a folder above it, was
        deleted or renamed."""
        if self._file is None:
            return False
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except OSError:
            return True

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # every record was handed over before
                file.close()

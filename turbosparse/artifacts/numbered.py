"""Numbered files of which each can be written by one writer only: what a log and a lease are made of."""

from dataclasses import dataclass

from turbosparse.artifacts.place import Place


@dataclass(frozen=True)
class NumberedFiles:
    """The files 000001.json, 000002.json, … of a folder, without gaps."""

    place: Place

    @classmethod
    def open(cls, root: str, folder: str) -> "NumberedFiles":
        """Returns those of a folder below an artifact root; it need not exist."""
        return cls(Place.open(root).below(folder))

    def last(self) -> int:
        """Returns the highest number; 0 where there is none."""
        names = [name for name in self.place.children() if name.endswith(".json")]
        number = max((int(name.removesuffix(".json")) for name in names), default=0)
        # Some object stores list a file a moment after they can read it.
        while self.place.exists(_name(number + 1)):
            number += 1
        return number

    def read(self, number: int) -> bytes:
        """Returns a file's content.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return self.place.read(_name(number))

    def create(self, number: int, content: bytes) -> bool:
        """Writes a file at once and whole, unless there is another. Returns whether it is this one."""
        if self.place.local is not None:
            self.place.local.mkdir(parents=True, exist_ok=True)
        return self.place.create(_name(number), content)

    def replace(self, number: int, content: bytes) -> None:
        """Writes a file whole over what it was: readers see the one or the other."""
        self.place.replace(_name(number), content)

    def path(self, number: int) -> str:
        """Returns the file system's name of a file."""
        return self.place.path(_name(number))


def _name(number: int) -> str:
    return f"{number:06d}.json"

"""Reading a store: manifests, lineage, and files whose digests are checked.

Layout: `<root>/<kind>/<identity>/manifest.json` beside one folder per attempt. The manifest names
the attempt it commits; whatever it does not name does not exist for readers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from turbosparse.artifacts.cache import LocalCache, missing_files
from turbosparse.artifacts.files import check_inside, verify_file, verify_size
from turbosparse.artifacts.manifest import ArtifactSpec, Manifest
from turbosparse.artifacts.place import PATIENCE_SECONDS, Place
from turbosparse.errors import ArtifactError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A committed artifact."""

    store: "StoreReader"
    manifest: Manifest
    reused: bool = False
    """Whether it was there before it was asked for."""

    @property
    def uri(self) -> str:
        """`<root>/<kind>/<identity>`."""
        return f"{self.store.root}/{self.manifest.name}"

    def folder(self) -> Path:
        """Returns a local folder with the artifact's files, every digest checked.

        Raises:
            ArtifactError: A file is missing or corrupt; the message names it.
        """
        return self.store.fetch(self.manifest)


@dataclass
class StoreReader:
    """Artifacts below one root: a local folder or any fsspec URI, such as s3://bucket/prefix."""

    root: str
    patience_seconds: float = PATIENCE_SECONDS
    """How long an outage of the storage is waited out."""
    cache_gib: float | None = None
    """Space on this machine for what is fetched from elsewhere; none: the machine's default."""
    _verified: dict[str, Path] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self._place = Place.open(self.root, self.patience_seconds)
        self.root = self._place.uri
        self._cache = LocalCache.open(self.root, self.cache_gib)

    @property
    def local_root(self) -> Path | None:
        """The root as a path, where it is on this machine's disk."""
        return self._place.local

    def place(self, kind: str) -> str:
        """Returns where artifacts of a kind lie: a path on this machine, else a URI."""
        return f"{self.local_root or self.root}/{kind}"

    def find(self, spec: ArtifactSpec) -> Artifact | None:
        """Returns the artifact if it is committed, its files' sizes checked (not their digests).

        Raises:
            ArtifactError: Its manifest is unreadable, or a file is missing or of another size.
        """
        if not self._place.exists(spec.name, MANIFEST):
            return None
        manifest = self._read_manifest(spec.name)
        self._verify_sizes(manifest)
        return Artifact(self, manifest, reused=True)

    def load(self, uri: str) -> Artifact:
        """Returns the committed artifact at `uri` (`<root>/<kind>/<identity>`, or below this root).

        Raises:
            ArtifactError: There is none.
        """
        name = "/".join(uri.rstrip("/").split("/")[-2:])
        if not self._place.exists(name, MANIFEST):
            raise ArtifactError(
                "uri", uri, "<root>/<kind>/<identity> of a committed artifact", "see turbosparse store ls"
            )
        return Artifact(self, self._read_manifest(name), reused=True)

    def manifests(self) -> list[Manifest]:
        """Returns the manifests of all committed artifacts, oldest first."""
        names = [name for name in self._names() if self._place.exists(name, MANIFEST)]
        return sorted((self._read_manifest(name) for name in names), key=lambda found: found.created_at)

    def lineage(self, manifest: Manifest) -> Iterator[tuple[int, str, Manifest]]:
        """Yields (depth, role, manifest) for an artifact and its ancestors, depth first."""
        yield from self._lineage(manifest, depth=0, role="")

    def fetch(self, manifest: Manifest) -> Path:
        """Returns a local folder with the artifact's files, each digest checked once per process.

        Components that lie on this machine are checked too; others are, as they are read.

        Raises:
            ArtifactError: A file is missing or corrupt.
        """
        if manifest.name not in self._verified:
            folder = self._local_folder(manifest)
            if self.local_root is not None:
                for path, record in manifest.files.items():
                    check_inside(folder, path)
                    verify_file(folder / path, record)
            # Before its components: a manifest that was tampered with may name itself as one.
            self._verified[manifest.name] = folder
            try:
                self._fetch_components(manifest)
            except ArtifactError:
                del self._verified[manifest.name]
                raise
        return self._verified[manifest.name]

    def fetched_name(self, path: Path) -> tuple[str, str] | None:
        """Returns `kind/identity` of the fetched artifact that a local path lies in, and the rest of it."""
        for name, folder in self._verified.items():
            if path.is_relative_to(folder):
                return name, path.relative_to(folder).as_posix()
        return None

    def file(self, manifest: Manifest, path: str) -> Path:
        """Returns one file of an artifact on this machine, its digest checked.

        Raises:
            ArtifactError: It is missing or corrupt, or the artifact has none of that name.
        """
        record = manifest.files.get(path)
        if record is None:
            remedy = "delete the artifact's folder and run its stage again"
            raise ArtifactError(manifest.name, sorted(manifest.files), f"a file {path}", remedy)
        if self.local_root is not None:
            local = self._local_folder(manifest) / path
            check_inside(self._local_folder(manifest), path)
            verify_file(local, record)
            return local
        folder = self._cached_folder(manifest)
        try:
            verify_file(folder / path, record)
        except ArtifactError:
            self._download(manifest, [path], folder)
        return folder / path

    def _names(self) -> list[str]:
        """Returns `kind/identity` of all that lies below the root, committed or not."""
        kinds = [kind for kind in self._place.children() if not kind.startswith(".")]
        return [f"{kind}/{identity}" for kind in kinds for identity in self._place.children(kind)]

    def _files(self, manifest: Manifest) -> Place:
        return self._place.below(manifest.name, manifest.attempt)

    def _fetch_components(self, manifest: Manifest) -> None:
        for name in manifest.components if self.local_root is not None else ():
            self.fetch(self._read_manifest(name))

    def _local_folder(self, manifest: Manifest) -> Path:
        files = self._files(manifest)
        if files.local is not None:
            return files.local
        folder = self._cached_folder(manifest)
        self._download(manifest, missing_files(manifest, folder), folder)
        return folder

    def _cached_folder(self, manifest: Manifest) -> Path:
        size_bytes = sum(record.size_bytes for record in manifest.files.values())
        return self._cache.folder(f"{manifest.name}/{manifest.attempt}", size_bytes)

    def _download(self, manifest: Manifest, paths: Iterable[str], folder: Path) -> None:
        files = self._files(manifest)

        def verify(path: str, copy: Path) -> None:
            verify_file(copy, manifest.files[path], files.path(path))

        files.download(paths, folder, verify)

    def _verify_sizes(self, manifest: Manifest) -> None:
        files = self._files(manifest)
        sizes = files.sizes()
        for path, record in manifest.files.items():
            verify_size(files.path(path), sizes.get(path), record)

    def _read_manifest(self, name: str) -> Manifest:
        path = self._place.path(name, MANIFEST)
        remedy = "delete the artifact's folder and run its stage again"
        try:
            manifest = Manifest.model_validate_json(self._place.read(f"{name}/{MANIFEST}"))
        except ValidationError as error:
            first = error.errors()[0]
            raise ArtifactError(path, first["loc"], f"a manifest ({first['msg']})", remedy) from error
        if manifest.name != name:
            raise ArtifactError(path, manifest.name, f"the manifest of {name}", "put the folder back")
        if not manifest.is_of_its_identity:
            expected = "the configuration, parents and inputs that its identity is the digest of"
            raise ArtifactError(path, "changed", expected, remedy)
        return manifest

    def _lineage(self, manifest: Manifest, depth: int, role: str) -> Iterator[tuple[int, str, Manifest]]:
        yield depth, role, manifest
        for parent_role, name in sorted(manifest.parents.items()):
            yield from self._lineage(self._read_manifest(name), depth + 1, parent_role)

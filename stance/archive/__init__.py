"""Archives of any size to a folder of Parquet files, in one process, several, or on a cluster."""

from stance.archive.run import ArchiveSummary, score_archive

__all__ = ["ArchiveSummary", "score_archive"]

"""TensorBoard: event files in a folder for each training."""

from collections.abc import Mapping

from torch.utils.tensorboard import SummaryWriter

from albef.trackers import Run


class Tracker:
    """Event files; values and links are texts beside the curves."""

    def __init__(self, run: Run, id: str | None) -> None:
        self.id = id or str(run.folder / "tensorboard" / run.name)
        self._writer: SummaryWriter | None = None
        self._texts = {} if id else {"values": run.values, "links": run.links}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve; the first one removes later points of a killed process."""
        if self._writer is None:
            self._writer = SummaryWriter(self.id, purge_step=step)
            for name, texts in self._texts.items():
                rows = (f"| {key} | {text} |" for key, text in texts.items())
                self._writer.add_text(
                    name, "\n".join(["| key | value |", "|---|---|", *rows]), step
                )
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Add the final metrics as curves of one point."""
        writer = self._writer or SummaryWriter(self.id)
        for name, value in metrics.items():
            writer.add_scalar(name, value, 0)
        writer.close()

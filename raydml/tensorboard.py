"""Curves, hyper-parameters, metrics and pictures as TensorBoard event files, with raydml's own dotted names.

Written with TensorBoard's own writer: torch's SummaryWriter would rename `val/map@r`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from raydml.config import Distribution, Scalar

_NO_CURVE = ("epoch", "step")
# How the protocol of TensorBoard counts the channels of an image.
_RGB = 3


class Curves:
    """The event file of one run, begun anew: a run that goes on adds its whole history again, without a seam."""

    def __init__(self, directory: Path, *, point: Mapping[str, Scalar]) -> None:
        """`point` is what was searched, by dotted path: the run's row of the HParams tab."""
        for old in directory.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = EventFileWriter(str(directory))
        if point:
            # The group is the run itself; without a name TensorBoard would merge runs with equal values.
            self._add(hparams.hparams_pb(dict(point), trial_id=directory.name, start_time_secs=time.time()), step=0)

    def add(self, row: Mapping[str, float]) -> None:
        """One epoch's metrics; the horizontal axis counts epochs."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name not in _NO_CURVE]
        self._add(Summary(value=values), step=int(row["epoch"]))
        self._writer.flush()

    def close(self, *, failed: bool = False) -> None:
        """Ends the file; the HParams tab then shows the run as ended or failed."""
        self._add(_end(failed=failed), step=0)
        self._writer.close()

    def _add(self, summary: Summary, *, step: int) -> None:
        self._writer.add_event(Event(summary=summary, wall_time=time.time(), step=step))


def write_end(directory: Path, *, failed: bool) -> None:
    """What `Curves.close` says, in a further event file: of a run whose process was stopped before it could."""
    writer = EventFileWriter(str(directory))
    writer.add_event(Event(summary=_end(failed=failed), wall_time=time.time(), step=0))
    writer.close()


def _end(*, failed: bool) -> Summary:
    status = api_pb2.Status.Value("STATUS_FAILURE" if failed else "STATUS_SUCCESS")
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    plugin = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
    return Summary(
        value=[Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=plugin, tensor=metadata.NULL_TENSOR)]
    )


def write_experiment(directory: Path, *, space: Mapping[str, Distribution], metrics: Sequence[str]) -> None:
    """What is searched, where, and which metrics belong to it: the columns of the HParams tab of a whole study."""
    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    writer = EventFileWriter(str(directory))
    config = hparams.hparams_config_pb(
        hparams=[hparams.HParam(path, _domain(distribution)) for path, distribution in space.items()],
        metrics=[hparams.Metric(name) for name in metrics],
    )
    writer.add_event(Event(summary=config, wall_time=time.time(), step=0))
    writer.close()


def write_evaluation(
    directory: Path, *, split: str, metrics: Mapping[str, float], pictures: Mapping[str, bytes], epoch: int
) -> None:
    """The event file of an evaluation, begun anew: `test/recall@1` ..., and `neighbors/best` ... from PNG files."""
    for old in directory.glob("events.out.tfevents.*"):
        old.unlink()
    values = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in metrics.items()]
    values += [Summary.Value(tag=f"neighbors/{kind}", image=_image(content)) for kind, content in pictures.items()]
    writer = EventFileWriter(str(directory))
    writer.add_event(Event(summary=Summary(value=values), wall_time=time.time(), step=epoch))
    writer.close()


def _image(content: bytes) -> Summary.Image:
    with Image.open(io.BytesIO(content), formats=("PNG",)) as found:
        width, height = found.size
    return Summary.Image(width=width, height=height, colorspace=_RGB, encoded_image_string=content)


def _domain(distribution: Distribution) -> hparams.Domain:
    if distribution.choices:
        # One type for all: TensorBoard takes 1 and 2.5 for two different kinds of domain.
        numeric = distribution.kind == "ordered"
        return hparams.Discrete([float(c) if numeric else str(c) for c in distribution.choices])
    return hparams.RealInterval(float(distribution.low), float(distribution.high))

"""Read: `seglog topic read` and `seglog tail`: records out of a topic, as lines, in a format, or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

import seglog
from seglog.cli import options
from seglog.cli.exits import Refused
from seglog.cli.merge import merged
from seglog.cli.progress import Progress
from seglog.cli.render import Format, Lines, Objects, Renderer
from seglog.cli.where import Where, parse_where, starts_of, stops_of
from seglog.waiting import wait_for_any

__all__ = ["read", "tail"]


def read(
    name: options.TopicName,
    data: options.Data = options.DATA,
    offset: Annotated[
        str, typer.Option("--offset", "-o", metavar="FROM", help="beginning, end, N, -N (the last N) or @TIME.")
    ] = "beginning",
    until: Annotated[
        str | None, typer.Option("--until", "-u", metavar="TO", help="Before N, @TIME or end.", show_default="end")
    ] = None,
    partition: options.Partition = None,
    count: Annotated[
        int | None, typer.Option("--count", "-c", min=0, metavar="N", help="At most N records.", show_default=False)
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", "-f", metavar="FORMAT", help="See below.", show_default=False)
    ] = None,
    separator: options.KeySeparator = None,
    delimiter: options.Delimiter = r"\n",
    as_json: options.Json = False,
    follow: Annotated[
        bool, typer.Option("--follow/--exit", " /-e", help="Wait for more at the end, or exit there.")
    ] = False,
) -> None:
    """Print records: each value and a newline. What `seglog topic send` read comes out again byte by byte.

    Several partitions are merged by timestamp; inside each, offsets decide.

    \b
    FROM  TIME is ISO 8601, as in 2013-07-04 or 2013-07-04T12:00:00Z, local without a zone; or a number since 1970:
          seconds up to 11 digits, milliseconds up to 14, else microseconds; s, ms, us behind it say it outright.
    FORMAT  %s value  %k key  %h headers  %t topic  %p partition  %o offset  %T timestamp (ms)
            %S bytes of the value  %K of the key (-1: null)  %%   \\n \\r \\t \\0 \\\\ \\xNN
    --json  {"topic","partition","offset","timestamp" (µs),"key","value","headers"} per line; bytes that are no UTF-8
            are {"base64":"..."}.

    \b
        seglog topic read logs > copy
        seglog topic read logs -o -10 --follow
        seglog topic read orders -o @2013-07-04 -f '%p:%o %k %s\\n' | head
        seglog topic read orders --json | jq -r .key | sort | uniq -c
    """
    stop = None if until is None else parse_where(until)
    if follow and stop is not None:
        raise Refused("--until names an end and --follow has none: leave one out")
    renderer = renderer_of(name, form, separator, delimiter, as_json)
    start = parse_where(offset)
    with options.open_store(data) as store:
        reading = Reading(options.existing_topic(store, name), partition, start, renderer, count)
        reading.until(stop)
        if follow:
            reading.follow()


def tail(
    name: options.TopicName,
    data: options.Data = options.DATA,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="How many.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more, from any process.")] = False,
    partition: options.Partition = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="FORMAT", help="As of `topic read`.", show_default=False)
    ] = None,
    separator: options.KeySeparator = None,
    delimiter: options.Delimiter = r"\n",
    as_json: options.Json = False,
) -> None:
    """Print the last records of a topic; with -f also those to come, until Ctrl-C.

    \b
        seglog tail orders
        seglog tail -f orders -n 0 --json
        seglog tail -f orders | grep --line-buffered paid
    """
    renderer = renderer_of(name, form, separator, delimiter, as_json)
    with options.open_store(data) as store:
        reading = Reading(options.existing_topic(store, name), partition, Where("last", lines), renderer, None)
        reading.until(None)
        if follow:
            reading.follow()


def renderer_of(topic: str, form: str | None, separator: str | None, delimiter: str, as_json: bool) -> Renderer:
    if (form is not None) + (separator is not None) + as_json > 1:
        raise Refused("-f, -K and --json each say how records are printed: leave out all but one")
    if as_json:
        return Objects(topic)
    if form is not None:
        return Format(form, topic)
    return Lines(options.one_byte(delimiter, "-D"), None if separator is None else options.unescaped(separator, "-K"))


class Reading:
    """A topic on its way to stdout: where it is in each partition, and how many records it may still print."""

    def __init__(
        self, topic: seglog.Topic, partition: int | None, start: Where, renderer: Renderer, count: int | None
    ) -> None:
        self.topic, self.renderer, self.left = topic, renderer, count
        self.all = partition is None
        self.partitions = list(range(topic.partitions)) if partition is None else [partition]
        self.at = starts_of(start, topic, self.partitions)

    def until(self, stop: Where | None) -> None:
        """Print what there is, up to `stop`."""
        stops = stops_of(stop, self.topic, self.partitions)
        total = sum(max(0, end - start) for start, end in zip(self.at, stops, strict=True))
        total = total if self.left is None else min(total, self.left)
        with Progress(f"reading {self.topic.name}", total, "records", show=not sys.stdout.isatty()) as progress:
            self.print(stops, progress)

    def follow(self) -> None:
        """Print what comes, as it comes."""
        while self.left != 0:
            logs = [self.topic.logs[partition] for partition in self.partitions]
            wait_for_any(logs, self.at, None, self.grown)
            stops = stops_of(None, self.topic, self.partitions)
            self.print(stops, None)

    def grown(self) -> bool:
        """Whether there are new partitions; they are read from their beginning. Raises when the topic is no more."""
        self.topic.next_offset(self.partitions[0])  # takes in what other processes did
        if not self.all or self.topic.partitions == len(self.partitions):
            return False
        more = range(len(self.partitions), self.topic.partitions)
        self.at += [self.topic.first_offset(partition) for partition in more]
        self.partitions += more
        return True

    def print(self, stops: Sequence[int], progress: Progress | None) -> None:
        out = sys.stdout.buffer
        for text, count in self.texts(stops):
            out.write(text)
            if progress is None or sys.stdout.isatty():
                out.flush()
            if progress is not None:
                progress.advance(count)
        out.flush()
        self.at = list(stops)

    def texts(self, stops: Sequence[int]) -> Iterator[tuple[bytes, int]]:
        """(text, records) up to `stops`, some at a time."""
        spans = zip(self.partitions, self.at, stops, strict=True)
        # An offset that is not there is for `batches` to refuse, also when it is the only one.
        streams = [
            self.topic.batches(start, partition=partition, stop=stop)
            for partition, start, stop in spans
            if start != stop
        ]
        if len(streams) == 1:  # nothing to merge
            for batch in streams[0]:
                if self.left is not None and self.left < len(batch):
                    yield from self.some(self.renderer.pieces(batch))
                    return
                self.count(len(batch))
                yield self.renderer.whole(batch), len(batch)
        else:
            for pieces in merged(streams, self.renderer.pieces):
                yield from self.some(pieces)
                if self.left == 0:
                    return

    def some(self, pieces: list[bytes]) -> Iterator[tuple[bytes, int]]:
        wanted = pieces[: self.left]
        self.count(len(wanted))
        yield b"".join(wanted), len(wanted)

    def count(self, printed: int) -> None:
        if self.left is not None:
            self.left -= printed

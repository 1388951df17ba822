"""Things: everything that can be found, in words: what it means for the data, and what repair does about it.

A thing is a code, a kind, a severity, and one or two sentences, whose gaps the finder fills; what follows the arrow is what
`repair` does. `docs/guide/doctor.md` says what the severities mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from seglog.doctor.report import SEVERITIES, Finding, Severity

__all__ = ["say"]

TEXT = """
# any file
unreadable: unreadable, unexamined
    it could not be read ({why}): nothing is known about what it holds
newer: newer, unexamined
    {why}
unknown: unknown, note
    not a name of this format: the store does not look at it
kept: kept, note
    an earlier repair kept it here: the store does not look at it
unfinished: leftover, note
    a file that was being made: it is there under its own name, or never was
    -> removes it

# the store
no identity: missing, damage
    it is missing: the store cannot be opened. It only says who the store is; topics and records do not depend on it
    -> writes a new one, with another uuid
identity: corrupt, damage
    it is not the line that was written: the store cannot be opened. It only says who the store is; topics and records
    do not depend on it
    -> writes a new one, with another uuid, and keeps this one as SEGLOG.damaged
no store: corrupt, damage
    it is not the line that was written, and nothing else here proves a store
no meta: missing, damage
    the log that says what topics there are and how they are set is missing: the store cannot be opened. The records of
    {topics} are not touched by that. Put it back from a backup
not meta: corrupt, damage
    record {offset:,} passes its hash and does not say what there is: this is another log's file, or something else
    wrote it. The store cannot be opened. Put meta back from a backup
doubt: corrupt, damage
    the last word on {topic} that can be read is that it was deleted; it may have been made anew in what meta
    lost. The store touches none of its files, and makes nothing of that name. Put meta back from a backup; or move
    this folder elsewhere, which gives its records up
deleted: leftover, note
    files of {topic}, which was deleted: the next opening of the store removes them
orphan: unknown, note
    no record of meta names it: its creation was cut short, or that record is lost. Making {topic} takes the files
    over, with all records
extra: unknown, note
    a partition that {topic}, of {count}, does not have: add_partitions takes it over
twins: misplaced, damage
    {names} have one identity: files of one were copied over the other's, and nothing here says which is which. The
    records of the other one are lost; put them back from a backup

# queues
no queue: leftover, note
    no record of meta says how {topic} is set: its creation, or its deletion, was cut short. Nobody can receive from it, and making
    it anew begins by removing these files
lost queue: corrupt, damage
    no record of meta that can be read says how {topic} is set, and meta lost some. Its messages are here, but making it anew would
    remove them: put meta back from a backup first
no messages: missing, damage
    meta says that there is {topic}, and {why}: it cannot be opened, and its messages are lost, unless meta comes back from a
    backup. store.delete_queue forgets it
queue settings: newer, unexamined
    how {topic} is set is not understood: {why}
chunk: corrupt, damage
    {why}: what became of messages {first:,}..{last:,} of {topic}, as far as there are so many, is not known. None of them is lost:
    those that were settled come again
    -> sets it aside, renamed so that it ends in .bad; the next opening makes a new one
words: corrupt, damage
    the states of {count:,} messages of {topic}, from {first:,} to {last:,}, are not what was written. None of them is lost: those
    that were settled come again
    -> lets those messages be ready, and keeps this file as .bad
times: corrupt, damage
    the moments at which {count:,} messages of {topic}, from {first:,} to {last:,}, expire or are due are not what was written: they
    would be dropped, or come at another time
    -> writes them again as the messages say, and keeps this file as .bad
counts: derived, damage
    what is counted of the states of {topic} is not what they are: until the machine starts again messages may not come. None is
    lost
    -> has them counted anew by the next opening
bad chunk: kept, note
    the states of messages of {topic}, which were not readable: those messages came again. Nobody looks at it
new chunk: leftover, note
    states of {topic} that were being made: they are there under their own name, or never were. Nobody looks at it

# a log
gone: missing, damage
    {what} is missing: its records are lost, and the topic cannot be opened. Put it back from a backup if there is one
    -> begins it anew, empty, far above every offset that can have been given out
failed: failed, damage
    a sync failed: what was appended after the last good one may be lost by a power cut, and nothing is appended before
    the log was recovered
    -> recovers it: writes again what can be read, and syncs
no first: missing, damage
    the first segment files are gone: {lost}, unless they come back from a backup
    -> lets the log begin behind them
no last: missing, damage
    {why}: {lost}, unless they come back from a backup
    -> recovers the log, which goes on far behind, and remembers the loss
torn: torn, harmless
    {why}: an append that no sync had covered when the power went, or that was never finished. The log ends at offset
    {offset:,}{more}
    -> recovers the log: these bytes are copied to a file that ends in .torn, and zeroed
history: missing, note
    an earlier recovery found here: {why}: {lost}. Everything else was read
    -> writes down that it was seen: `seglog verify` does not tell it again
orphan index: derived, harmless
    an index without its segment: nobody looks at it
    -> removes it
index: derived, harmless
    {why}: it is only for speed, and each frame that it leads to is checked
    -> removes it; it is made anew when it is needed

# a segment
segment: corrupt, damage
    {why}: the records of this segment are lost, unless it comes back from a backup
    -> sets it aside: the file stays, and reads pass over its offsets
header: header, harmless
    one of the two copies of its header is damaged: the other one is used, and no record is lost
    -> writes the sound copy over it
slot: mark, harmless
    one of the two slots of its durable mark is damaged: the other one holds, which may be one sync older
    -> writes the sound one over it
old mark: mark, harmless
    both slots of its durable mark are damaged: no record is lost by that
    -> syncs what was verified, and writes a new one
mark: mark, damage
    both slots of its durable mark are damaged: nothing says what a sync covered, and what was trimmed since the segment
    began is back after the next boot. No record is lost by that
    -> syncs what was verified, and writes a new one
cut: missing, harmless
    the file was cut short, to {have:,} of {capacity:,} bytes, behind its last record: none is lost
    -> gives it its size back, or recovers the log
corrupt: corrupt, damage
    {why}: {lost}; everything before and after can be read
    -> {aside}
missing: missing, damage
    {why}: {lost}; everything before and after can be read
    -> {aside}
hole: torn, damage
    {why}; it was never synced on purpose, and the power went: {lost}; everything before and after can be read
    -> {aside}
moved: misplaced, harmless
    the frame of offset {offset:,} stands at {there:,}: a write went astray, and readers find it
away: misplaced, damage
    it is the segment that begins at offset {base:,}, under another name: its records cannot be read there
    -> renames it to {name}
foreign: misplaced, harmless
    {why}: under this name it is none of this log, which does without it
    -> renames it, so that it ends in .misplaced

# groups
old place: leftover, note
    the place of group {group} in an older topic of this name, or in none: it is not used
place cut: missing, damage
    the file was cut short, to {have:,} bytes: the place of group {group} in {lost:,} of {count:,} partitions of {topic}
    is lost. No record is
    -> makes room again: the group reads those partitions from their beginning, and what it had done comes again
count: positions, damage
    both slots of how many partitions the place of group {group} in {topic} has are damaged: the group cannot read. No
    place and no record is lost
    -> writes it again: {count:,}, as the file's size and the topic say
place slot: positions, harmless
    one of two slots of the place of group {group} in {topic}, {what}, is damaged: the other one holds, the last commit
    or the one before
    -> writes the sound one over it
first place: positions, harmless
    the only slot of the place of group {group} in {topic}, {what}, is damaged: a first commit that was cut short
    -> clears it
place: positions, damage
    both slots of the place of group {group} in {topic}, {what}, are damaged: what it committed is lost, and the group
    cannot read. No record is lost
    -> clears them: the group reads the partition from its beginning, and what it had done comes again
"""


class Thing(NamedTuple):
    kind: str
    severity: Severity
    meaning: str
    repair: str


def things(text: str) -> Iterator[tuple[str, Thing]]:
    for thing in re.findall(r"^\w.*\n(?: +.*\n)+", text, re.MULTILINE):
        head, _, said = thing.partition("\n")
        code, kind, word = re.split(": |, ", head)
        meaning, _, repair = " ".join(said.split()).partition(" -> ")
        (severity,) = (one for one in SEVERITIES if one == word)
        yield code, Thing(kind, severity, meaning, repair)


THINGS = dict(things(TEXT))
ASIDE = "sets it aside: the bytes stay, and reads pass over these offsets"


def say(
    code: str, path: str, *, position: int = 0, size: int = 0, start: int = -1, stop: int = -1, **words: Any
) -> Finding:
    """The finding of that code; `words` fill its sentences."""
    thing = THINGS[code]
    if start >= 0:
        words = {"lost": lost_words(start, stop), "aside": ASIDE} | words
    meaning, repair = thing.meaning.format(**words), thing.repair.format(**words)
    place = {"position": position, "size": size, "start": start, "stop": stop}
    return Finding(kind=thing.kind, severity=thing.severity, path=path, meaning=meaning, repair=repair, **place)


def lost_words(start: int, stop: int) -> str:
    """
    >>> lost_words(4, 5), lost_words(0, 5000), lost_words(7, -1)
    ('1 offset is lost', '5,000 offsets are lost', 'nobody knows how many offsets are lost')
    """
    if stop < 0:
        return "nobody knows how many offsets are lost"
    return "1 offset is lost" if stop == start + 1 else f"{stop - start:,} offsets are lost"

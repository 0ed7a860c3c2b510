"""Changes courses one after the other, and records when the catalogue showed which state; a process of its own.

    python -m benchmarks.load.changes COURSES PASSAGES AT_ONCE FILE

It writes lines of JSON to the file: `{"at": …, "states": {course: [status, generation, edition]}}` for each look at the
catalogue with what has changed, on the monotonic clock, which all processes of a machine share. A course is changed
only after its previous edition was published, so an edition has one generation.
"""

import json
import sys
import time
from pathlib import Path

from benchmarks.load.courses import course_id, rows_of
from models import courses
from models.database import CatalogueSettings, DatabaseUnavailableError, create_catalogue_engine, transaction
from models.loading import load

LOOK_SECONDS = 0.1


def main() -> None:
    """Change courses until this process is ended."""
    number, passages, at_once = map(int, sys.argv[1:4])
    engine = create_catalogue_engine(CatalogueSettings())
    editions = dict.fromkeys(range(number), 1)
    waiting_for: dict[int, int] = {}
    known: dict[str, list[object]] = {}
    turn = 0
    with Path(sys.argv[4]).open("a", encoding="utf-8", buffering=1) as out:
        while True:
            before = time.monotonic()
            try:
                with transaction(engine) as session:
                    rows = {row.id: row for row in courses.published_courses(session)}
            except DatabaseUnavailableError:
                time.sleep(LOOK_SECONDS)
                continue
            states = {
                course_id(each): [
                    rows[course_id(each)].embedding_status,
                    rows[course_id(each)].embedding_generation,
                    editions[each],
                ]
                for each in range(number)
                if course_id(each) in rows
            }
            changed = {id_: state for id_, state in states.items() if known.get(id_) != state}
            known |= changed
            out.write(json.dumps({"from": before, "at": time.monotonic(), "states": changed}) + "\n")
            for each in [
                each for each, generation in waiting_for.items() if states[course_id(each)][:2] == ["done", generation]
            ]:
                del waiting_for[each]
            while len(waiting_for) < min(at_once, number):
                each, turn = turn % number, turn + 1
                if each in waiting_for or states[course_id(each)][0] != "done":
                    break
                editions[each] += 1
                waiting_for[each] = rows[course_id(each)].embedding_generation + 1
                try:
                    with transaction(engine) as session:
                        load(session, [(course_id(each), rows_of(each, editions[each], passages))], replace=True)
                except DatabaseUnavailableError:
                    editions[each] -= 1
                    del waiting_for[each]
            time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    main()

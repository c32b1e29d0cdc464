"""What the tables hold is what today's code says: six traced rows, other ones every day, computed again."""
import datetime, random
import pytest
from ftcook.bench import measurement, read_table, version_text
from ftcook.runs import Run
from ftcook.trace import GiB, reserved_bytes, trace_step

def rows_of_the_day(n=6, day=None):
    rows = read_table(measurement('cost/estimates.csv'))
    return random.Random((day or datetime.date.today()).toordinal()).sample(rows, n)

def found_in(row):
    trace = trace_step(Run.from_row(row))
    found = dict(traced_gib=trace.peak/GiB, reserved_gib=reserved_bytes(trace)/GiB)
    found |= {f'{phase}_gib': v/GiB for phase,v in trace.phases.items()} | {f'work_{kind}': v for kind,v in trace.work.items()}
    return {k: round(v, 0 if k.startswith('work') else 4) for k,v in found.items()}

@pytest.mark.parametrize('row', rows_of_the_day(), ids=lambda row: str(Run.from_row(row)))
def test_a_traced_row_is_what_it_was(row):
    "Equal to the last digit where the libraries are those of the row; elsewhere they may have learned to take less or more."
    same = set(row['versions'].split()) == set(version_text().split())
    for column,value in found_in(row).items():
        assert value == pytest.approx(float(row[column]), rel=1e-9 if same else .05, abs=5e-5), column

def test_another_day_has_other_rows():
    days = [rows_of_the_day(day=datetime.date(2026, 11, 1) + datetime.timedelta(n)) for n in range(60)]
    assert days[0] == rows_of_the_day(day=datetime.date(2026, 11, 1))
    assert len({Run.from_row(r) for rows in days for r in rows}) > 80

"""Items are worked on in threads, a few at a time, and come out in order."""

import itertools
import threading
import time

import pytest

from mnv2zoo.system.threads import in_order


def test_results_come_in_order_from_as_many_threads_as_asked():
    threads = set()

    def double(number):
        threads.add(threading.get_ident())
        time.sleep(0.02 if number % 2 == 0 else 0)
        return 2 * number

    assert list(in_order(range(9), double, ahead=4, threads=2)) == [(number, 2 * number) for number in range(9)]
    assert len(threads) == 2
    assert threading.get_ident() not in threads


def test_only_so_many_items_are_taken_ahead():
    taken = []
    numbers = (taken.append(number) or number for number in itertools.count())
    found = in_order(numbers, str, ahead=3)
    assert [next(found), next(found)] == [(0, "0"), (1, "1")]
    assert taken == [0, 1, 2, 3]
    found.close()


def test_an_exception_is_raised_when_its_item_is_due_and_no_thread_is_left():
    before = threading.active_count()
    found = in_order([4, 2, 0, 1], lambda number: 4 // number, ahead=3)
    assert [next(found), next(found)] == [(4, 1), (2, 2)]
    with pytest.raises(ZeroDivisionError):
        next(found)
    assert threading.active_count() == before

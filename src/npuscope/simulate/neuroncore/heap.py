"""Binary heaps in plain arrays, of (key, value) pairs or of numbers, for compiled loops."""

from __future__ import annotations

from typing import Any

from npuscope._compiled import compiled


@compiled
def push(keys: Any, values: Any, size: int, key: int, value: int) -> int:  # pragma: no cover - compiled
    """Insert a pair below `size` elements of the heap; ties are ordered by value. Returns the new size."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if keys[parent] < key or (keys[parent] == key and values[parent] <= value):
            break
        keys[at], values[at] = keys[parent], values[parent]
        at = parent
    keys[at], values[at] = key, value
    return size + 1


@compiled
def pop(keys: Any, values: Any, size: int) -> int:  # pragma: no cover - compiled
    """Remove the first pair, which the caller has read from index 0. Returns the new size."""
    size -= 1
    key, value = keys[size], values[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            keys[right] < keys[child] or (keys[right] == keys[child] and values[right] < values[child])
        ):
            child = right
        if key < keys[child] or (key == keys[child] and value <= values[child]):
            break
        keys[at], values[at] = keys[child], values[child]
        at = child
    keys[at], values[at] = key, value
    return size


@compiled
def push_number(numbers: Any, low: int, size: int, number: int) -> int:  # pragma: no cover - compiled
    """Insert into the heap at numbers[low : low + size]. Returns the new size."""
    at = size
    while at > 0:
        parent = (at - 1) >> 1
        if numbers[low + parent] <= number:
            break
        numbers[low + at] = numbers[low + parent]
        at = parent
    numbers[low + at] = number
    return size + 1


@compiled
def pop_number(numbers: Any, low: int, size: int) -> int:  # pragma: no cover - compiled
    """Remove the first number, which the caller has read from numbers[low]. Returns the new size."""
    size -= 1
    number = numbers[low + size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and numbers[low + child + 1] < numbers[low + child]:
            child += 1
        if number <= numbers[low + child]:
            break
        numbers[low + at] = numbers[low + child]
        at = child
    numbers[low + at] = number
    return size

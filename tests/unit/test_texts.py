"""Texts of items are decoded by pages while a new view is built of them in a thread."""

from __future__ import annotations

import sys
import threading

from serving.texts import ItemText, Texts


def text(number: int, title: str = "") -> ItemText:
    return ItemText(f"i{number}", "product", title or f"物品{number}", f"Item {number}", "c", "app://x")


def test_a_changed_copy_is_made_while_rows_are_decoded() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(15):
            texts = Texts.of([text(number) for number in range(1500)])
            reader = threading.Thread(target=lambda texts=texts: [texts[row] for row in range(1500)])
            reader.start()
            while reader.is_alive():
                copy = texts.changed({0: text(0, "新"), 1500: text(1500)})
                assert copy[0].zh == "新" and copy[1].zh == "物品1" and len(copy) == 1501
            reader.join()
    finally:
        sys.setswitchinterval(before)

"""A small stock keeper: what is on the shelves, what is reserved, what must be ordered."""

from dataclasses import dataclass, field


@dataclass
class Item:
    name: str
    price: float
    count: int = 0
    reserved: int = 0
    reorder_level: int = 5

    def available(self):
        return self.count - self.reserved

    def value(self):
        return self.count * self.price


@dataclass
class Inventory:
    items: dict = field(default_factory=dict)

    def add_item(self, name, price, count=0):
        if name in self.items:
            raise ValueError(f"item {name} already exists")
        self.items[name] = Item(name, price, count)

    def get_item(self, name):
        if name not in self.items:
            raise KeyError(f"item {name} does not exist")
        return self.items[name]

    def receive(self, name, count):
        item = self.get_item(name)
        item.count += count

    def reserve(self, name, count):
        item = self.get_item(name)
        if count > item.available():
            raise ValueError(f"only {item.available()} of {name} are available")
        item.reserved += count

    def ship(self, name, count):
        item = self.get_item(name)
        if count > item.reserved:
            raise ValueError(f"only {item.reserved} of {name} are reserved")
        item.reserved -= count
        item.count -= count

    def to_reorder(self):
        names = []
        for item in self.items.values():
            if item.available() < item.reorder_level:
                names.append(item.name)
        return names

    def total_value(self):
        total = 0.0
        for item in self.items.values():
            total += item.value()
        return total

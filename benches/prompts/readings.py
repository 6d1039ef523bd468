"""Temperature readings from a file: averages, extremes, and a report."""

import json
from datetime import date


def load_readings(path):
    with open(path) as file:
        return json.load(file)


def celsius_to_fahrenheit(celsius):
    return celsius * 9 / 5 + 32


def average(values):
    if not values:
        return 0.0
    return sum(values) / len(values)


def warmest_day(readings):
    day = max(readings, key=lambda reading: reading["temperature"])
    return date.fromisoformat(day["date"])


def days_below(readings, limit):
    return [reading["date"] for reading in readings if reading["temperature"] < limit]


def group_by_month(readings):
    groups = {}
    for reading in readings:
        month = reading["date"][:7]
        groups.setdefault(month, []).append(reading["temperature"])
    return groups


def monthly_averages(readings):
    months = group_by_month(readings)
    return {month: average(values) for month, values in months.items()}


def format_line(month, value):
    return f"{month}: {value:.1f} degrees"


def report(readings):
    lines = ["Average temperature by month"]
    for month, value in sorted(monthly_averages(readings).items()):
        lines.append(format_line(month, value))
    frost = days_below(readings, 0)
    lines.append(f"{len(frost)} days of frost")
    return "\n".join(lines)


def save_report(readings, path):
    with open(path, "w") as file:
        file.write(report(readings))

"""Compares two reports of bench.sh: compare.py BEFORE.md AFTER.md

A figure repeats if its range over the rounds meets that of the other report. Prints each that does not, then how many do,
of all and of the ratios, and the ratios of both beside each other. Exit code: 0; 1 when a report cannot be read or holds no figures.
"""

import re
import sys


def figures(path):
    """{(row, column): (median, smallest, largest)} of all tables of a report; a row that comes twice counts once for each."""
    found, header, section = {}, [], ""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("## "):
                section, seen = line[3:].strip(), {}
            elif line.startswith("| Figure"):
                header = cells(line)[1:]
            elif line.startswith("| ") and header:
                row, *values = cells(line)
                seen[row] = seen.get(row, 0) + 1
                name = row if seen[row] == 1 else f"{row} ({seen[row]})"
                for column, value in zip(header, values):
                    read = re.fullmatch(r"([\d.,]+)(?: \[([\d.,]+)–([\d.,]+)\])?", value)
                    if read:
                        median, low, high = (float((part or read[1]).replace(",", "")) for part in read.groups())
                        found[section, name, column] = median, low, high
    return found


def cells(line):
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    try:
        before, after = map(figures, sys.argv[1:])
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    both = [key for key in before if key in after]
    if not both:
        print("no figures that both reports have", file=sys.stderr)
        sys.exit(1)
    meet = {key: before[key][1] <= after[key][2] and after[key][1] <= before[key][2] for key in both}
    for key in both:
        if not meet[key]:
            print("apart:", " · ".join(key[1:]), *("{:g} [{:g}–{:g}]".format(*report[key]) for report in (before, after)))
    ratios = [key for key in both if "÷" in key[2]]
    for kind, keys in (("figures", both), ("ratios", ratios)):
        print(f"{kind}: the ranges of {sum(meet[key] for key in keys)} of {len(keys)} meet")
    print()
    for section, row, column in ratios:
        if "starling ÷" in column:
            old, new = before[section, row, column][0], after[section, row, column][0]
            print(f"{old:8.2f} {new:8.2f} {100 * (new / old - 1 if old else 0):+5.0f} %  {column[11:]:14} {row}")


if __name__ == "__main__":
    main()

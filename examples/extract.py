"""A folder of texts becomes a table: each text is read by a model, whose answers all have one type.

    python examples/extract.py invoices/ invoices.csv
    python examples/extract.py invoices/ invoices.csv openai/gpt-4o

Several texts are read at once, with a progress bar. One that the model can't read is named; the rest is kept.
"""

import csv
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pydantic import BaseModel, Field
from rich.progress import track

from modelport import InvalidOutput, Model, load_model

AT_ONCE = 4


class Invoice(BaseModel):
    buyer: str = Field(description="Who pays.")
    total: float = Field(description="The amount to pay, as a number.")
    currency: str = Field(description="Three letters.", pattern="^[A-Z]{3}$")


def read(model: Model, path: Path) -> Invoice | None:
    prompt = f"Extract the buyer, the total and the currency of this invoice.\n\n{path.read_text()}"
    try:
        return model(prompt, grammar=Invoice, temperature=0, max_tokens=200).parsed
    except InvalidOutput:
        return None


def main(folder: Path, table: Path, model: Model) -> None:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        sys.exit(f"{folder} is no folder with .txt files")
    with ThreadPoolExecutor(AT_ONCE) as threads:
        invoices = list(track(threads.map(partial(read, model), paths), "Reading", total=len(paths)))
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *Invoice.model_fields])
        for path, invoice in zip(paths, invoices, strict=True):
            if invoice is None:
                print(f"{path}: the model gave no invoice", file=sys.stderr)
            else:
                writer.writerow([path.name, *invoice.model_dump().values()])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with load_model(sys.argv[3] if len(sys.argv) > 3 else "llamacpp") as model:
        main(Path(sys.argv[1]), Path(sys.argv[2]), model)

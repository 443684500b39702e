"""Extract a table from a folder of texts: a model reads each text, and its output has one type.

    python examples/extract.py invoices/ invoices.csv
    python examples/extract.py invoices/ invoices.csv openai/gpt-4o

Several texts are read at once, with a progress bar. A text in which the model finds no invoice is named and left out.
"""

import csv
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pydantic import BaseModel, Field
from rich.progress import track

from modelport import InvalidOutput, Model, load_model

THREADS = 4


class Invoice(BaseModel):
    buyer: str = Field(description="Who pays.")
    total: float = Field(description="The amount to pay, as a number.")
    currency: str = Field(description="Three letters.", pattern="^[A-Z]{3}$")


def read_invoice(model: Model, path: Path) -> Invoice | None:
    prompt = f"Extract the buyer, the total and the currency of this invoice.\n\n{path.read_text()}"
    try:
        return model(prompt, grammar=Invoice, temperature=0, max_tokens=200).parsed
    except InvalidOutput:
        return None


def main(folder: Path, table: Path, model: Model) -> None:
    paths = sorted(folder.glob("*.txt"))
    if not paths:
        sys.exit(f"{folder}: there are no .txt files")
    with ThreadPoolExecutor(THREADS) as threads:
        invoices = list(track(threads.map(partial(read_invoice, model), paths), "Reading", total=len(paths)))
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *Invoice.model_fields])
        for path, invoice in zip(paths, invoices, strict=True):
            if invoice is None:
                print(f"{path}: the model found no invoice", file=sys.stderr)
            else:
                writer.writerow([path.name, *invoice.model_dump().values()])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    with load_model(sys.argv[3] if len(sys.argv) > 3 else "llamacpp") as model:
        main(Path(sys.argv[1]), Path(sys.argv[2]), model)

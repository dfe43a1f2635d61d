import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "stance"
ORDER = [
    *("labels", "errors", "records", "config", "segment", "rows", "tables", "articles", "corpus"),
    *("splits", "predictions", "audit", "prepare", "metrics", "agreement", "neutrality"),
    *("behaviour", "annotate", "calibration", "first_look", "encoder", "model", "bundle"),
    *("holders", "backends", "exports", "quantize", "classifier", "distill", "archive"),
    *("baselines", "parallel", "run", "training_set", "loop", "training", "evaluation", "gate"),
    *("benchmark", "report", "speed", "cli", "__main__"),
]


def test_modules_import_only_from_above_in_the_house_order():
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if module == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                if name.startswith("stance."):
                    above = name.split(".")[1]
                    assert above == module or ORDER.index(above) < ORDER.index(module), (path, name)


def test_importing_stance_loads_neither_torch_nor_hydra():
    code = "import stance, sys; print([m for m in ('torch','hydra','numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_resolves():
    import stance

    for name in stance.__all__:
        assert getattr(stance, name) is not None

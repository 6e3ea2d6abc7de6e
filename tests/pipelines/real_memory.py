"""Peak memory of a real step on the CPU, and its estimate; test_plan.py runs this file."""

import json
import resource
from pathlib import Path

import psutil

from albef.config import validate
from albef.models.albef import ModelConfig
from pipelines.params import load
from pipelines.plan import Training, Trainings

SIZE = 16
MODEL = {
    "image": {"image_size": 192, "patch_size": 16, "width": 384, "depth": 6, "heads": 6},
    "text": {
        "width": 384,
        "depth": 6,
        "fusion_depth": 3,
        "heads": 6,
        "intermediate": 1536,
        "max_positions": 64,
        "dropout": 0.1,
    },
    "embed_dim": 256,
}


def main() -> None:
    params = load(Path("presets/smoke.yaml"))
    changes = {
        "precision": "float32",  # in 16 bits, a CPU keeps the weights of attention
        "global_batch_size": SIZE,
        "micro_batch_size": SIZE,
        "model": validate(ModelConfig, MODEL, where="test"),
    }
    pretrain = params.pretrain.model_copy(update=changes)
    trainings = Trainings(params.model_copy(update={"pretrain": pretrain}), gpus=1)
    records = trainings.records("retrieval")
    before = psutil.Process().memory_info()
    training = Training(trainings.task("pretrained"), params.runtime, records, None)
    training.step(SIZE)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Pages of torch's libraries that the step is the first to use are no memory of the step.
    libraries = psutil.Process().memory_info().shared - before.shared
    real = peak - before.rss - libraries
    print(json.dumps([real, trainings.need("pretrained", SIZE).peak]))


if __name__ == "__main__":
    main()

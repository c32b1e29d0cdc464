from trl import SFTConfig, SFTTrainer
from trl.commands.cli_utils import SFTScriptArguments, TrlParser

script, args = TrlParser((SFTScriptArguments, SFTConfig)).parse_args_and_config()
SFTTrainer("Qwen/Qwen3-0.6B", args=args).train()

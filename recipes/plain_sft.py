"""Fine-tune a small chat model, and ask it one question before and after. Nothing here but the libraries.

    python recipes/plain_sft.py MODEL           with 96 flight requests that this script makes up
    python recipes/plain_sft.py MODEL DATA      with your rows, JSONL of {"messages": [...]} that end with the answer

MODEL is a folder or a hub id. The adapter is left in the folder plain_sft."""
import json, random, sys
from datasets import load_dataset, Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

cities = 'Lima Oslo Cairo Quito Paris Delhi Accra Tokyo Seoul Perth Miami Rome Berlin Lagos Dublin Hanoi'.split()
days = 'Monday Tuesday Wednesday Thursday Friday Saturday Sunday'.split()
openings = ['Book me a flight', 'I want a ticket', 'Please reserve a seat', 'What flights are there', 'Show me planes']

def conversation(start, end, day, opening='I need to fly'):
    "A request, and the answer that we want."
    wanted = json.dumps({'from': start, 'to': end, 'day': day})
    return [{'role': 'system', 'content': 'Turn the request into JSON with the keys from, to and day.'},
            {'role': 'user', 'content': f'{opening} from {start} to {end} on {day}'},
            {'role': 'assistant', 'content': wanted}]

def ask(model, question):
    "The model's answer."
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors='pt')
    output = model.eval().generate(**inputs.to(model.device), max_new_tokens=40, do_sample=False)
    return tokenizer.decode(output[0, inputs['input_ids'].shape[1]:], skip_special_tokens=True)

name, *file = sys.argv[1:]
random.seed(0)
made_up = [conversation(*random.sample(cities, 2), random.choice(days), random.choice(openings)) for _ in range(96)]
rows = load_dataset('json', data_files=file, split='train') if file else Dataset.from_dict({'messages': made_up})
question = rows[0]['messages'][:-1] if file else conversation('Madrid', 'Nairobi', 'Friday')[:-1]

tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype='float32')
print('before:', ask(model, question))

def split(row): return {'prompt': row['messages'][:-1], 'completion': row['messages'][-1:]}
data = rows.map(split, remove_columns=rows.column_names)
lora = LoraConfig(r=16, lora_alpha=32, target_modules='all-linear', task_type='CAUSAL_LM')
args = SFTConfig('plain_sft', num_train_epochs=1, per_device_train_batch_size=8, learning_rate=2e-3, logging_steps=4,
                 bf16=False, activation_checkpointing=False, report_to='none')
trainer = SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer, peft_config=lora)
trainer.train()
trainer.save_model()
print('after: ', ask(trainer.model, question))

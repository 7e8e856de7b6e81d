specc compile tiny.specc:small --tuning absent.jsonl -o a
specc compile tiny.specc:small --tuning records.jsonl -o a
specc tune tiny.specc:small --tuning none
specc tune tiny.specc:small --tuning new.jsonl --target c
specc tune tiny.specc:small --tuning new.jsonl --tracker 127.0.0.1:1
specc tune tiny.specc:small --tuning new.jsonl --tracker board --key arm
specc tune tiny.specc:small --tuning new.jsonl --tracker 127.0.0.1:1 --key arm

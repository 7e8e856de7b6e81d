specc check empty.specc
specc check utf16.specc
specc check dangling.specc
specc check circle.specc
specc check /dev/zero
specc check uses_latin1.specc
specc check uses_folder.specc
specc check around_a.specc
specc compile tiny.specc:small --tuning /dev/zero -o a
specc compile tiny.specc:small --weights /dev/zero -o a
specc sign tiny.artifact --key /dev/zero
specc compile tiny.specc:small -o circle.specc
specc compile tiny.specc:small -o image.npz --precision int8 --calibrate image.npz
specc compile tiny.specc:small -o tiny.artifact --tuning tiny.artifact
specc run empty.artifact
specc run pretty.artifact
specc run edited.artifact
specc unpack grown.artifact -o out
specc check unterminated.specc
specc tune tiny.specc:small --tuning new.jsonl --threads 0
specc tune tiny.specc:small --tuning new.jsonl --threads 1000000
specc tune tiny.specc:small --tuning new.jsonl --tracker 127.0.0.1:1 --key arm --threads -1

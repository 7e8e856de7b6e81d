specc run tiny.specc
specc run start.artifact
specc run cut.artifact
specc run flipped.artifact
specc run flipped_manifest.artifact
specc run newer.artifact
specc run foreign.artifact
specc run no_library.artifact
specc unpack cut.artifact -o out
specc show cut.artifact
specc verify tiny.artifact
specc check tiny.artifact
specc fmt tiny.artifact
specc show tiny.artifact:small
specc tune tiny.artifact
specc compile tiny.artifact -o a
specc show tiny.artifact -O1

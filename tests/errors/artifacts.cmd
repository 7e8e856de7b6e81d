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

specc run tiny.artifact --require-signature public.pem
specc run signed.artifact --require-signature other.pem
specc run signed.artifact --require-signature private.pem
specc sign tiny.artifact --key public.pem
specc sign tiny.artifact --key absent.pem

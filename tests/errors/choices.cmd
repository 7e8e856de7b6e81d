specc check tiny.specc:smal
specc check tiny.specc:Timy.small
specc show tiny.specc
specc verify tiny.specc

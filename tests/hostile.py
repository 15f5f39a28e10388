"""Texts that try to be more than text."""

TEXTS = {
    "script": "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">",
    "markup": "</p></article><h1>not a heading</h1>&lt;b&gt; &amp; \"quoted\" 'too'",
    "controls": "bell\x07 escape\x1b[31mred\x1b[0m nothing\x00 delete\x7f next\x85 line",
    "direction": "the word \u202eemitkcab\u202c and \u2067isolated\u2069 and שלום עולם",
    "long": "word " * 200_000 + "harbour",
    "address": "javascript:alert(1) http://elsewhere.example/x.png",
}

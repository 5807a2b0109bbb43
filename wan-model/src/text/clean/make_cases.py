"""Writes cases.json: texts and what the official clean-up makes of them.

    pip install ftfy==6.3.1 && python make_cases.py > cases.json
"""

import html
import json
import random
import re

import ftfy


def official(text):
    text = ftfy.fix_text(text)
    text = html.unescape(html.unescape(text)).strip()
    return re.sub(r"\s+", " ", text).strip()


GOOD = [
    "A stylish woman walks down a Tokyo street.", "schön, café, naïve façade Ångström", "“quoted” — ‘text’… it’s fine",
    "Привет, мир! Ёлка и ґанок", "Ελληνικά κείμενο, Ωραία", "你好，世界。霓虹灯闪烁", "日本語、カタカナ・ひらがな", "한국어 텍스트",
    "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "ไทย ภาษา", "😀 👨‍👩‍👧‍👦 🏴\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f", "½ ² ³ ™ © ® № ℃ ×÷±",
    "Łódź, Kraków, źdźbło, żółć", "Český Krumlov, řeřicha, ďábel", "İstanbul, ağaç, şeker, ığdır", "Rīga, Ķekava, žēlīgs ūdens",
    "Þórr, ðæt, Øresund, Æsir, œuvre", "€ 5, £ 6, ¥ 7, ¢", "¿Qué? ¡Sí! señor, niño", "à la carte, voilà, où, ça", "às, àquele, português não",
    "(╯°□°)╯︵ ┻━┻ ¯\\_(ツ)_/¯", "┌──┐│ok│└──┘ ▀▄█", "mañana… «citation» ‹x›", "20°C, 5 µm, 3 × 4", "L’été", "a\u0301 e\u0308 o\u0328 \u1100\u1161",
    "º ª ¶ § ‡ †", "Ünïcödé ÀÉÎÕÜ", "Tiếng Việt rất đẹp", "Côte d’Ivoire – Genève — Zürich", "naïve\u00a0space\u202fthin",
]
ENCODINGS = ["latin-1", "sloppy-windows-1252", "sloppy-windows-1251", "sloppy-windows-1250", "sloppy-windows-1253",
             "sloppy-windows-1254", "sloppy-windows-1257", "iso-8859-2", "macroman", "cp437"]
HTML = [
    "Tom &amp; Jerry &lt;b&gt;bold&lt;/b&gt;", "double &amp;amp;lt; escaped &amp;amp;amp;amp;", "It&#39;s &#x27;ok&#X27; &#8217;", "&notit; &notin; &ampx &amp &",
    "&eacute;&EACUTE;&Eacute &eacutex", "this&not that &copy 2024 &copy; &copycat", "P&EACUTE;REZ BUNDESSTRA&SZLIG;E &NTILDE; &nTILDE;",
    "&#0; &#128; &#x9f; &#129; &#13; &#xD800; &#x110000; &#99999999999;", "&#1;a&#8;b&#11;c&#x1f;d&#127;e&#xfffe;f&#x1ffff;g&#xfdd0;h", "&#; &#x; &; &a; &#xg; &#12ab; &unknown;",
    "<p>&eacute; &amp;</p>", "line &amp; one\n<b>two &eacute;\nthree &eacute; &amp;eacute;", "&nbsp;x&nbsp;&nbsp;y&nbsp", "&NotEqualTilde; &acE; &fjlig; &ThickSpace;|", "&Tab;a&NewLine;b",
    "&lt;&lt;&gt;&gt; &quot;q&quot; &apos;a&apos;", "&hellip;&mdash;&ndash;&lsquo;&rsquo;&ldquo;&rdquo;", "&#65;&#x41;&#65 &#x41 &#65x", "&AMP;&LT;&GT;&QUOT;&COPY;&REG", "&ThisNameIsMuchTooLongToBeAnEntityAtAll; &CounterClockwiseContourIntegral;",
    "&amp;#39; &amp;#x2019; &amp;nbsp;", "&sup2;&SUP2;&frac12;&FRAC12;&ang;&ANG;", "&#59; &#38;amp; &#38;#38;", "&ccedil;a &agrave; &Agrave;&AGRAVE; &oelig;&OELIG;&yuml;&YUML;", "&Atilde;&copy; &Acirc;&pound; &acirc;&euro;&trade;",
]
CONTROLS = [
    "control\x07char\x1b[31mred\x1b[0m", "\x1b[1;31;40m bold \x1b[Kx \x1b[ y", "a\x00b\x08c\x0bd\x0ce\x0ef\x1fg\x7fh", "\ufeffbom \ufffcobject\ufff9x\ufffby", "\u206a\u206fdeprecated", "line1\r\nline2\rline3\u2028line4\u2029line5\x85line6",
    "zero\u200bwidth\u200djoin\u200e\u202eoverride", "\x80\x85\x91quoted\x92\x93\x94\x96\x97", "caf\xe9 \x81\x8d\x8f\x90\x9d", "tabs\t\tand\x0bvertical\x0cfeed", "\x1c\x1d\x1e\x1fseparators", "\u180emongolian \u2060word", "\x1a sub \ufffd",
    "\u1680ogham\u2003em\u205fmath\u3000wide", "   lead and trail \t\n", "", " ", "\n\n", "\x1b", "\x1b[\u0663mdigit",
]
FORMS = [
    "ﬁne ligature ﬀ ﬂ ﬃ ﬄ ﬅ ﬆ", "Ĳssel ĳs ŉ Ǳ ǲ ǳ Ǆ ǅ ǆ Ǉ ǈ ǉ Ǌ ǋ ǌ æ œ", "ＦＵＬＬＷＩＤＴＨ　ｔｅｘｔ　１２３！？", "Ｕﾀｰﾝ ｶﾞｷﾞｸﾞ ﾊﾟﾋﾟ ﾡﾢﾣ ￠￡￢￣￤￥￦ ￨￩￪", "“”„‟ ‘’‚‛ ʼ ´ ` ′ ″", "«guillemets» ‹x› 「quote」",
    "e\u0301 A\u030a n\u0303 \u0344 \u212b \u2126 \u0958 \ufb1d", "\uac00 \u1100\u1161\u11a8", "ſ ß ẞ ŉ", "…‥—–‒―‐‑", "①②③ ㎏ Ⅳ ﷺ", "\U0001d11e \U0001f600 \U000e0001", "ʻokina ʼapostrophe", "q\u0307\u0323 q\u0323\u0307",
]
BROKEN = [
    "mojibake: schÃ¶n cafÃ©", "voilÃ le travail", "voilÃ\xa0 le travail", "Ã la mode", "fÃ cil", "Ã quele lugar, Ã s vezes", "â€œ like this â€\ufffd", "â€œquotedâ€\x9d text", "l’humanitÃ©", "ÃÂ¶ ÃƒÂ¶ ÃƒÆ’Ã‚Â¶",
    "&Atilde;&para; and Ã¶", "The Mona Lisa doesnÃƒÂ¢Ã¢â€šÂ¬Ã¢â€žÂ¢t have eyebrows.", "good — text and â€œbadâ€\x9d 中文", "1 âˆ’ 2 â‰ˆ 3", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "РџСЂРёРІРµС‚ РјРёСЂ", "ä½\xa0å¥½ä¸–ç•Œ", "ã\x83\x84 ¯\\_(ã\x83\x84)_/¯", "Ã\x8arude", "à¤¨à¤®à¤¸à¥\x8dà¤¤à¥‡",
    "\xed\xa0\xbd\xed\xb8\x8d", "í\xa0½í¸\x8d", "à²²à³", "AHÅ™, the new sofa from IKEA®", "Â£5 Â©2024 Â® 20Â°C", "5Â000 mÂ²", "Parce que suffit pas d’être grand ?€", "Gratis Versand für â‚¬ 5", "naÃ¯ve fiancÃ©e", "√© √† voil√†", "‚Äúmac‚Äù roman‚Äôs", "ÔÇ£", "├® ├á ÔÇÖ",
    "ŔĂŠ", "Ĺ‚Ăłd\u017a", "sÄ…siad â€“ Å‚Ã³dÅº", "ÎµÎ»Î»Î·Î½Î¹ÎºÎ¬", "ΞµΞ»Ξ»Ξ·Ξ½ΞΉΞΊΞ¬", "Ø§Ù„Ø¹Ø±Ø¨ÙŠØ©", "×©×œ×•×\x9d", "à¹„à¸—à¸¢", "í•œêµ\xadì–´", "ðŸ˜€ ðŸ‘", "ð\x9f\x98\x80", "Ã©Ã", "Ã", "Â", " Ã a", "a Ã b", "xÂ y. Â “z", "a\xa0Ã\xa0b",
    "Œuvre œ œ! x°C À°", "× ² ×²", "\u0432\u0402\u201cquote", "β€™s", "ā€™s ā€“", "РІР‚вЂњ", "ГўВЂВ™s it", "caf\xc3? and na\xc3\xafve", "â€? what â€\ufffd", "Ã\ufffd lost Ã? x", "ï»¿bom", "Ã©\nÃ¨ <b>\n&eacute; Ã¼", "sch\xf6n \xe2\x80\x9c", "\xc0\x80 Ã©", "RÃ©union &amp; lâ€™Ã®le",
]


def texts():
    yield from GOOD + HTML + CONTROLS + FORMS + BROKEN
    for number, text in enumerate(GOOD):
        data = text.encode("utf-8")
        for turn in range(4):
            yield data.decode(ENCODINGS[(number * 3 + turn * 4 + turn // 3) % len(ENCODINGS)])
    rng = random.Random(7)
    pool = GOOD + HTML + CONTROLS + FORMS + BROKEN
    for _ in range(60):
        pieces = [rng.choice(pool)[: rng.randint(3, 18)] for _ in range(3)]
        mixed = rng.choice(["", " ", "\n"]).join(pieces)
        if rng.random() < 0.4:
            mixed = mixed.encode("utf-8").decode(rng.choice(ENCODINGS))
        yield mixed


seen = dict.fromkeys(texts())
print("[")
print(",\n".join(json.dumps([text, official(text)]) for text in seen))
print("]")

"""Whether SQL Server would take a statement, asked without a server.

Asked are sqlfluff's T-SQL parser and a small check of our own.
sqlfluff refuses what is not T-SQL's grammar (`limit`, `||`), and lets pass what only looks like it:
bare booleans, ordinals in `group by`, other databases' functions and types, words that it takes for
an alias. The check here is for those. It knows brackets, clauses and conditions, and no tables:
that a column does not exist, or an alias is used in `where`, it cannot see; nor does it know
`merge` and `pivot`. The measure is SQL Server 2016; what came later is refused, and the message
says since when it is there.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from sqlfluff.core import FluffConfig, Linter

TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)
    | (?P<text>[nN]?'(?:[^']|'')*')
    | (?P<name>"(?:[^"]|"")*"|\[[^\]]*\])
    | (?P<number>0x[0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<bind>\?|(?<!:):[^\W\d]\w*)
    | (?P<word>@{0,2}[\#$]*[^\W\d][\w@\#$]*)
    | (?P<sign>::|\|\||<>|!=|<=|>=|==|!<|!>|->>|->|@>|<@|~\*|!~|<<|>>|\S)""",
    re.VERBOSE | re.DOTALL,
)
COMPARISONS = {"=", "<>", "!=", "<", ">", "<=", ">=", "!<", "!>"}
PREDICATES = {"in", "like", "between", "is", "exists", "contains", "freetext"}
JOINS = {"inner", "left", "right", "full", "cross", "outer", "join", "natural"}
CONDITIONS = {"where", "having", "on", "if", "while"}
VALUES = {"select", "order", "group", "partition", "values"}
STATEMENTS = set(
    [
        "with",
        "insert",
        "update",
        "delete",
        "merge",
        "create",
        "alter",
        "drop",
        "truncate",
        "declare",
        "exec",
        "execute",
        "grant",
        "revoke",
        "deny",
        "use",
        "begin",
        "commit",
        "rollback",
        "print",
        "raiserror",
        "throw",
        "return",
        "set",
        "if",
        "while",
        "else",
        "end",
        "go",
    ]
)
# Words before brackets that hold clauses or options; and before those that hold no function's
# arguments.
CLAUSES_FOLLOW = {"over", "group", "with", "as", "from", "join", "apply", "on", "set"}
NO_FUNCTIONS = CLAUSES_FOLLOW | {
    "in",
    "values",
    "and",
    "or",
    "not",
    "by",
    "when",
    "then",
    "else",
    "select",
    "any",
    "all",
}
RANKINGS = {
    "row_number",
    "rank",
    "dense_rank",
    "ntile",
    "lag",
    "lead",
    "percent_rank",
    "cume_dist",
    "first_value",
    "last_value",
}

# Functions that SQL Server has not, or got after 2016, and what does the same there.
FUNCTIONS = {
    name: instead
    for names, instead in {
        "julianday age": "datediff()",
        "strftime to_char": "convert() with a style",
        "date datetime to_date to_timestamp": "cast(... as date) or cast(... as datetime2)",
        "unixepoch make_interval": "datediff() and dateadd()",
        "make_date": "datefromparts()",
        "date_trunc": "cast(... as date), or dateadd() of datediff()",
        "extract date_part": "datepart()",
        "now": "sysutcdatetime()",
        "random gen_random_uuid randomblob": "newid() or rand()",
        "ifnull nvl": "coalesce()",
        "group_concat array_agg": "for xml path, or string_agg() since 2017",
        "length char_length octet_length": "len() or datalength()",
        "substr": "substring()",
        "position instr strpos": "charindex()",
        "lpad rpad": "right() or left() of replicate()",
        "printf initcap regexp_replace regexp_matches split_part": "nothing of the kind",
        "btrim": "ltrim(rtrim())",
        "chr": "char()",
        "mod": "%",
        "pow": "power()",
        "ln": "log()",
        "trunc": "round(..., 0, 1)",
        "ceil": "ceiling()",
        "stddev stddev_samp stddev_pop variance var_samp": "stdev() or var()",
        "bool_and bool_or every": "min() or max() of 0 and 1",
        "total": "sum()",
        "typeof": "sql_variant_property()",
        "md5 sha256 encode decode hex": "hashbytes() and convert()",
        "json_extract json_each jsonb_array_elements json_array_elements": (
            "json_value() and openjson()"
        ),
        "unnest string_to_array": "openjson() or string_split()",
        "nextval currval setval": "next value for",
        "last_insert_rowid": "scope_identity()",
        "string_agg trim concat_ws translate": "it only since 2017",
        "greatest least datetrunc date_bucket generate_series json_object json_array": (
            "it only since 2022"
        ),
    }.items()
    for name in names.split()
}
# How many arguments a function takes that others take with more or fewer.
ARGUMENTS = {
    "round": (2, 3),
    "substring": (3, 3),
    "min": (1, 1),
    "max": (1, 1),
    "concat": (2, 254),
    "ltrim": (1, 1),
    "rtrim": (1, 1),
}
TYPES = {
    name: instead
    for names, instead in {
        "boolean bool": "bit",
        "timestamp timestamptz": (
            "datetime2 or datetimeoffset; its timestamp is the version of a row"
        ),
        "text string": "nvarchar(n); its text can be neither compared nor grouped",
        "uuid": "uniqueidentifier",
        "bytea blob": "varbinary(n)",
        "json jsonb": "nvarchar(max)",
        "int2 int4 int8": "smallint, int or bigint",
        "float4 float8": "real or float",
        "serial bigserial": "int identity",
        "interval": "no type for a duration",
    }.items()
    for name in names.split()
}
# Neighbours that give another dialect away. ( is any bracket, 'x' a literal, [x] a name, 1 a
# number, a bind or a variable.
PHRASES = {
    "true": "no true: compare with 1",
    "false": "no false: compare with 0",
    "limit 1": "no limit: top (n), or order by ... offset ... fetch",
    "distinct on": "no distinct on: row_number()",
    "filter (": "no filter: sum(case when ... then 1 else 0 end)",
    "nulls first": "no nulls first: order by a case",
    "nulls last": "no nulls last: order by a case",
    "interval 'x'": "no interval: dateadd()",
    "date 'x'": "no date literal: cast('...' as date)",
    "time 'x'": "no time literal: cast('...' as time)",
    "timestamp 'x'": "no timestamp literal: cast('...' as datetime2)",
    "e 'x'": "no escaped literal",
    "current_date": "no current_date: cast(sysutcdatetime() as date)",
    "current_time": "no current_time: cast(sysutcdatetime() as time)",
    "localtime": "no localtime: sysdatetime()",
    "localtimestamp": "no localtimestamp: sysdatetime()",
    "with recursive": "no word recursive: with",
    "as materialized": "no materialized",
    "not materialized": "no materialized",
    "natural join": "no natural join: join ... on",
    "natural inner": "no natural join: join ... on",
    "natural left": "no natural join: join ... on",
    "using (": "no using: join ... on",
    "lateral (": "no lateral: cross apply",
    "ilike": "no ilike: like, by the collation",
    "glob": "no glob: like",
    "regexp": "no regexp",
    "similar to": "no similar to: like",
    "is distinct": "is distinct from only since 2022",
    "is not distinct": "is not distinct from only since 2022",
    "table if not": "no create ... if not exists: if object_id(...) is null",
    "index if not": "no create ... if not exists: if not exists (select ... from sys.indexes ...)",
    "schema if not": "no create ... if not exists: if schema_id(...) is null",
    "create or replace": "no or replace: create or alter",
    "insert or": "no insert or ...: update, then insert",
    "on conflict": "no on conflict: update, then insert",
    "returning": "no returning: output",
    "array [x]": "no arrays",
    "||": "no ||: concat(), or +",
    "::": "no ::, cast(... as ...)",
    "==": "no ==: =",
    "->": "no ->: json_query()",
    "->>": "no ->>: json_value()",
    "@>": "no @>",
    "<@": "no <@",
    "~*": "no regular expressions",
    "!~": "no regular expressions",
    "<<": "no << before 2022",
    ">>": "no >> before 2022",
    "`": "no `: [name]",
}
SCOPES = {
    "schema",
    "object",
    "type",
    "role",
    "user",
    "login",
    "database",
}  # grant ... on schema::abatch


class Token(NamedTuple):
    kind: str  # text, name, number, bind, word, sign; or group: brackets, or case ... end
    text: str  # words in lower case; of a group "(" or "case"
    line: int
    inside: tuple["Token", ...] = ()


NOTHING = Token("", "", 0)


def find_faults(sql: str) -> list[str]:
    """What SQL Server would refuse in a statement or a script with GO, one line each.

    Binds may be :name or ?.
    """
    return [*_parse_errors(_replace_binds(sql)), *find_own_faults(sql)]


def find_own_faults(sql: str) -> list[str]:
    """The same without sqlfluff."""
    faults = [f"line {line}: {message}" for line, message in _check(parse(sql))]
    for inner in _find_executed(parse(sql)):
        faults += [f"in exec: {fault}" for fault in find_faults(inner)]
    return faults


@cache
def _linter() -> Linter:
    return Linter(config=FluffConfig(overrides={"dialect": "tsql", "templater": "raw"}))


@cache
def _parse_errors(sql: str) -> tuple[str, ...]:
    return tuple(
        f"line {error.line_no}: {error.desc()}" for error in _linter().parse_string(sql).violations
    )


def _replace_binds(sql: str) -> str:
    """The driver makes parameters of them, which are variables to the server."""
    return TOKEN.sub(
        lambda match: "@" + match["bind"].strip(":?") + "_" if match["bind"] else match.group(), sql
    )


def parse(sql: str) -> tuple[Token, ...]:
    """The tokens of a script, comments dropped, brackets and case ... end as groups."""
    open_groups: list[tuple[str, int, list[Token]]] = [("", 1, [])]
    for match in TOKEN.finditer(sql):
        kind, text, line = (
            str(match.lastgroup),
            match.group(),
            sql.count("\n", 0, match.start()) + 1,
        )
        if kind == "word":
            text = text.lower()
        if kind == "comment":
            continue
        if text in ("(", "case"):
            open_groups.append((text, line, []))
        elif len(open_groups) > 1 and (open_groups[-1][0], text) in {("(", ")"), ("case", "end")}:
            opener, first, inside = open_groups.pop()
            open_groups[-1][2].append(Token("group", opener, first, tuple(inside)))
        else:
            open_groups[-1][2].append(Token(kind, text, line))
    assert len(open_groups) == 1, f"line {open_groups[-1][1]}: {open_groups[-1][0]} is never closed"
    return tuple(open_groups[0][2])


def _find_executed(tokens: tuple[Token, ...]) -> Iterator[str]:
    """The statements inside exec(N'...')."""
    for before, token in pairwise(tokens):
        if token.kind == "group" and before.text in ("exec", "execute"):
            yield "".join(
                part.text.lstrip("nN")[1:-1].replace("''", "'")
                for part in token.inside
                if part.kind == "text"
            )
    for token in tokens:
        yield from _find_executed(token.inside)


Faults = Iterator[tuple[int, str]]


def _check(tokens: tuple[Token, ...], *, inner: bool = False) -> Faults:
    """Statements, or a query in brackets.

    Its clauses one after the other, then what concerns several of them.
    """
    yield from _check_neighbours(tokens)
    clauses = list(_split_clauses(tokens))
    is_view = any(
        opener in ("create", "alter") and any(token.text == "view" for token in inside)
        for opener, inside in clauses
    )
    for opener, inside in clauses:
        if opener in CONDITIONS:
            yield from _check_condition(inside)
        elif opener in VALUES:
            yield from _check_values(inside, opener)
        else:
            is_option = (
                bool(inside) and inside[0].kind == "group"
            )  # alter table ... set (system_versioning = on)
            yield from _check_groups(
                inside, is_checked=opener in ("from", "join", "set") and not is_option
            )
        if opener in ("from", "join"):
            yield from _check_tables(inside)
        if opener == "with":
            yield from _check_named(inside)
        if opener == "create" and "table" in [token.text for token in inside]:
            for group in (token for token in inside if token.text == "("):
                for column in _split(group.inside):
                    yield from _check_type(column[1:])
    yield from _check_order(clauses, is_subquery=inner or is_view)
    if is_view:
        yield from _check_names(
            next((inside for opener, inside in clauses if opener == "select"), ())
        )


def _split_clauses(tokens: tuple[Token, ...]) -> Iterator[tuple[str, tuple[Token, ...]]]:
    """Pairs of the word that opens a clause and the tokens up to the next."""
    opener, inside = "", list[Token]()
    for place, token in enumerate(tokens):
        before, after = (
            tokens[place - 1] if place else NOTHING,
            (tokens[place + 1] if place + 1 < len(tokens) else NOTHING),
        )
        found = token.text if token.kind == "word" and before.text != "." else ""
        if token.text == ";":
            found = ";"
        elif found in JOINS and after.text != "(":
            found = "join"
        elif found in ("order", "group", "partition") and after.text != "by":
            found = ""
        elif found == "on" and opener not in ("from", "join", "on"):
            found = ""  # create index ... on, grant ... on, set nocount on
        elif (
            (found == "with" and after.text in ("(", "ties"))
            or (found == "if" and before.text in ("table", "view", "index", "schema"))
            or (found == "for" and after.text == "system_time")
            or (found == "from" and before.text == "distinct")
            or found
            not in STATEMENTS
            | VALUES
            | CONDITIONS
            | {
                "from",
                "union",
                "except",
                "intersect",
                "option",
                "into",
                "for",
            }
        ):
            found = ""
        if found:
            yield opener, tuple(inside)
            opener, inside = found, []
        else:
            inside.append(token)
    yield opener, tuple(inside)


def _split(tokens: tuple[Token, ...], *signs: str) -> list[tuple[Token, ...]]:
    """The parts between commas, or between other signs or words.

    The `and` of a between separates nothing.
    """
    parts: list[list[Token]] = [[]]
    between = False
    for token in tokens:
        if (
            token.text in (signs or (",",))
            and token.kind in ("sign", "word")
            and not (between and token.text == "and")
        ):
            parts.append([])
        else:
            parts[-1].append(token)
        between = (between or token.text == "between") and token.text != "and"
    return [tuple(part) for part in parts]


def _is_query(group: Token) -> bool:
    return group.text == "(" and bool(group.inside) and group.inside[0].text in ("select", "with")


def _is_predicate(token: Token) -> bool:
    return token.text in {"sign": COMPARISONS, "word": PREDICATES}.get(token.kind, ())


def _check_condition(tokens: tuple[Token, ...]) -> Faults:
    for operand in _split(tokens, "and", "or"):
        while operand and operand[0].text == "not":
            operand = operand[1:]
        if not operand:
            continue
        if len(operand) == 1 and operand[0].text == "(" and not _is_query(operand[0]):
            yield from _check_neighbours(operand[0].inside)
            yield from _check_condition(operand[0].inside)
            continue
        if not any(_is_predicate(token) for token in operand):
            yield (
                operand[0].line,
                f"'{_show(operand)}' is a value, not a condition: T-SQL has no booleans",
            )
        for before, token in zip((NOTHING, *operand), operand, strict=False):
            if (
                token.text == "("
                and before.kind not in ("word", "name")
                and not _is_query(token)
                and len(_split(token.inside)) > 1
            ):
                yield (
                    token.line,
                    f"'({_show(token.inside)})': T-SQL compares no rows of several values",
                )
        yield from _check_groups(operand, is_checked=True)


def _check_values(tokens: tuple[Token, ...], opener: str) -> Faults:
    """A list of values, none of which may be a condition."""
    for number, item in enumerate(_split(tokens)):
        if opener in ("order", "group", "partition") and number == 0:
            item = item[1:]  # by
        while opener == "select" and item and item[0].text in ("distinct", "all", "top", "percent"):
            item = item[2:] if item[0].text == "top" else item[1:]
        if opener == "group" and len(item) == 1 and item[0].kind == "number":
            yield item[0].line, f"group by {item[0].text}: T-SQL takes no ordinals there"
        if opener == "select" and len(item) > 1 and item[1].text == "=":
            if not item[0].text.startswith("@"):
                yield (
                    item[0].line,
                    (
                        f"'{_show(item)}' makes {item[0].text} an alias in T-SQL; elsewhere it"
                        " compares"
                    ),
                )
            item = item[2:]
        if any(
            _is_predicate(token) or (token.kind == "word" and token.text in ("and", "or", "not"))
            for token in item
        ):
            yield (
                item[0].line,
                (
                    f"'{_show(item)}' is a condition, not a value: T-SQL needs case when ... then 1"
                    " else 0 end"
                ),
            )
        yield from _check_groups(item, is_checked=True)


def _check_arguments(before: Token, group: Token, rest: tuple[Token, ...]) -> Faults:
    """What stands in brackets after a function's name, or after nothing."""
    yield from _check_neighbours(group.inside)
    if before.kind == "word" and before.text not in NO_FUNCTIONS:
        yield from _check_function(before.text, group, rest)
    parts = _split(group.inside)
    if before.text == "iif":
        yield from _check_condition(parts.pop(0))
    for part in parts:
        yield from _check_values(part, "argument")


def _check_groups(tokens: tuple[Token, ...], *, is_checked: bool) -> Faults:
    """What stands in brackets: queries, cases, arguments.

    With `is_checked` conditions are refused as values.
    """
    for place, group in enumerate(tokens):
        if group.kind != "group":
            continue
        before = tokens[place - 1] if place else NOTHING
        if group.text == "case":
            yield from _check_case(group)
        elif _is_query(group):
            yield from _check(group.inside, inner=True)
        elif before.text == "check":
            yield from _check_neighbours(group.inside)
            yield from _check_condition(group.inside)
        elif before.text in ("exec", "execute"):
            continue
        elif is_checked and before.text not in CLAUSES_FOLLOW:
            yield from _check_arguments(before, group, tokens[place + 1 :])
        else:
            yield from _check(group.inside)


def _check_case(case: Token) -> Faults:
    yield from _check_neighbours(case.inside)
    parts: list[tuple[str, list[Token]]] = [("", [])]
    for token in case.inside:
        if token.kind == "word" and token.text in ("when", "then", "else"):
            parts.append((token.text, []))
        else:
            parts[-1][1].append(token)
    is_searched = not parts[0][1]
    for opener, inside in parts:
        yield from (
            _check_condition(tuple(inside))
            if opener == "when" and is_searched
            else _check_values(tuple(inside), "case")
        )


def _check_function(name: str, group: Token, after: tuple[Token, ...]) -> Faults:
    parts = _split(group.inside) if group.inside else []
    fewest, most = ARGUMENTS.get(name, (0, 254))
    if not fewest <= len(parts) <= most:
        yield (
            group.line,
            f"{name}() with {len(parts)} arguments: T-SQL's takes {fewest}"
            + f" to {most}" * (most > fewest),
        )
    if name == "count" and len(parts) > 1:
        yield group.line, "count() of several columns: T-SQL counts one"
    if name in ("cast", "try_cast"):
        yield from _check_type(_split(group.inside, "as")[-1])
    if name in ("convert", "try_convert") and parts:
        yield from _check_type(parts[0])
    over = after[1] if len(after) > 1 and after[0].text == "over" else NOTHING
    if (
        name in RANKINGS
        and over.text == "("
        and "order" not in [token.text for token in over.inside]
    ):
        yield group.line, f"{name}() over (...) without order by: T-SQL demands one"


def _check_type(tokens: tuple[Token, ...]) -> Faults:
    if tokens and tokens[0].kind == "word" and tokens[0].text in TYPES:
        yield tokens[0].line, f"type {tokens[0].text}: T-SQL has {TYPES[tokens[0].text]}"
    if len(tokens) == 1 and tokens[0].text in (
        "char",
        "nchar",
        "varchar",
        "nvarchar",
        "binary",
        "varbinary",
    ):
        yield (
            tokens[0].line,
            (
                f"{tokens[0].text} without a length is one of 30 in T-SQL's cast, and of 1 in its"
                " columns"
            ),
        )


def _check_tables(tokens: tuple[Token, ...]) -> Faults:
    """A query in brackets needs an alias, and its columns names."""
    for item in _split(tokens):
        for place, group in enumerate(item):
            if not (
                _is_query(group)
                or (group.text == "(" and group.inside and group.inside[0].text == "values")
            ):
                continue
            rest = [token for token in item[place + 1 :] if token.text != "as"]
            if not rest:
                yield group.line, "a query in from without an alias: T-SQL demands one"
            elif _is_query(group) and not (len(rest) > 1 and rest[1].text == "("):
                yield from _check_names(group.inside[1:])


def _check_named(tokens: tuple[Token, ...]) -> Faults:
    """with name as (select ...): its columns need names, unless they stand before the `as`."""
    for place, group in enumerate(tokens[2:], 2):
        if _is_query(group) and tokens[place - 2].text != "(":
            yield from _check_names(group.inside[1:])


def _check_names(select: tuple[Token, ...]) -> Faults:
    for item in _split(next(inside for _, inside in _split_clauses(select))):
        if item and (
            item[-1].kind in ("group", "number", "text", "bind") or item[-1].text.startswith("@")
        ):
            yield (
                item[0].line,
                f"'{_show(item)}' has no name: T-SQL demands one for each column of a named query",
            )


def _check_order(clauses: list[tuple[str, tuple[Token, ...]]], *, is_subquery: bool) -> Faults:
    has_top = any(
        opener == "select" and "top" in [token.text for token in inside[:2]]
        for opener, inside in clauses
    )
    has_for = any(opener == "for" for opener, _ in clauses)
    for opener, inside in clauses:
        words = [token.text for token in inside]
        for place, token in enumerate(inside[:-1]):
            if token.text == "offset" and "1" in _forms(inside[place + 1]):
                if opener != "order":
                    yield token.line, "offset without order by"
                elif words[place + 2 : place + 3] not in (["row"], ["rows"]):
                    yield token.line, "offset without the word rows"
            if token.text == "fetch" and "offset" not in words[:place]:
                yield token.line, "fetch without offset: T-SQL demands offset 0 rows"
        if (
            opener == "order"
            and is_subquery
            and "offset" not in words
            and not has_top
            and not has_for
            and inside
        ):
            yield (
                inside[0].line,
                "order by in a subquery or view: T-SQL takes it with top or offset only",
            )


def _forms(token: Token) -> set[str]:
    """What a token counts as in PHRASES."""
    if token.kind == "group":
        return {token.text}
    if token.kind == "text":
        return {"'x'"}
    if token.kind == "name":
        return {"[x]"} if token.text.startswith("[") else set()
    if token.kind in ("number", "bind") or token.text.startswith("@"):
        return {"1"}
    return {token.text} if token.kind in ("word", "sign") else set()


def _check_neighbours(tokens: tuple[Token, ...]) -> Faults:
    """Functions and phrases of other dialects, at this level of brackets."""
    forms = [_forms(token) for token in tokens]
    for place, token in enumerate(tokens):
        before, after = (
            tokens[place - 1] if place else NOTHING,
            (tokens[place + 1] if place + 1 < len(tokens) else NOTHING),
        )
        if before.text == "." or (token.text == "::" and before.text in SCOPES):
            continue
        if (
            token.kind == "word"
            and after.text == "("
            and before.text not in ("into", "table", "with", "references", "as")
        ) and token.text in FUNCTIONS:
            yield token.line, f"{token.text}(): T-SQL has {FUNCTIONS[token.text]}"
        if token.text == "over" and after.kind in ("word", "name"):
            yield token.line, "over and a name: T-SQL has no named windows before 2022"
        for phrase, message in _PHRASES_BY_FIRST.get(token.text, ()):
            if len(forms) - place >= len(phrase) and all(
                want in found for want, found in zip(phrase, forms[place:], strict=False)
            ):
                yield token.line, f"T-SQL has {message}"


def _show(tokens: tuple[Token, ...]) -> str:
    """A few tokens for a message."""
    return " ".join(
        "(...)" if token.text == "(" else "case ... end" if token.kind == "group" else token.text
        for token in tokens[:6]
    )


_PHRASES_BY_FIRST: dict[str, list[tuple[list[str], str]]] = {}
for _phrase, _message in PHRASES.items():
    _PHRASES_BY_FIRST.setdefault(_phrase.split()[0], []).append((_phrase.split(), _message))

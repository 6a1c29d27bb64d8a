"""English words."""

from services.gateway.interpret.lexicon import Act, Calendar, Lead, Lexicon, Part, listed

ENGLISH = Lexicon(
    verbs={
        Act.READ: listed(
            "show, show me, list, display, find, get, see, view, read, search, search for, look"
            " up, give me, tell me, send me, which, what, who, whose, when, where, how many, how"
            " much, are there, is there, is, are, was, were, do i have, do we have, does, did, has,"
            " have, do, check, count, retrieve, fetch, pull up, print, what about, let me see, look"
            " for, look at, bring up, how long, how often, what time, will, am i, review, tell us,"
            " i want to know, i'd like to know, let me know, add up, make sure, double check,"
            " verify, remind me about, update me, update me on, access, locate, track, look over,"
            " see if, when's, what's, where's, who's, hear, browse, pull, recite, summarize"
        ),
        Act.CREATE: listed(
            "create, add, register, book, schedule, issue, send, insert, new, set up, enter, make"
            " a, make an, make another, set a, set an, create a, put in a, put, include, generate,"
            " start, start a, start another, reserve, arrange, apply for, order, request, make me,"
            " give me a new, remind, remind me, wake me, wake me up, pay, transfer, invite, set me,"
            " plan, post, log, submit, sign up, sign me up, make"
        ),
        Act.UPDATE: listed(
            "update, change, set, edit, modify, correct, rename, switch, replace, adjust, amend,"
            " increase, decrease, raise, lower, reduce, extend, shorten, snooze, pause, resume,"
            " unpause, freeze, unfreeze, block, unblock, lock, unlock, turn on, turn up, turn down,"
            " activate, reactivate, enable, upgrade, downgrade, continue, alter, dim, brighten,"
            " finish, complete, check off, tick off, close, assign, fix, make my"
        ),
        Act.DELETE: listed(
            "delete, remove, erase, drop, destroy, get rid of, clear, wipe, purge, discard,"
            " eliminate, take off, scrap, take out, empty, undo, revert, terminate, trash,"
            " disregard, clean, clean out, clear out, clear off"
        ),
        Act.CANCEL: listed(
            "cancel, call off, void, stop, turn off, switch off, shut off, disable, deactivate,"
            " silence, dismiss, end, kill, turn it off"
        ),
        Act.MARK: listed("mark, flag"),
        Act.MOVE: listed(
            "reschedule, move, postpone, push, bring forward, shift, push back, delay, put off,"
            " advance"
        ),
    },
    other_changes=listed(
        "pay, settle, close, confirm, complete, assign, put, record, save, write, fix, turn, send,"
        " remind, note, reopen, reactivate, merge, transfer, cancelled, deleted, removed, changed,"
        " updated, moved, rescheduled, booked, scheduled, created, added, marked, reserve, arrange,"
        " turn off, turn on, disable, deactivate, empty, activate, stop, undo, extend, refund,"
        " make, eliminated, erased, need, want, get, order, open, apply, paid, placed, set, frozen,"
        " blocked, increased, raised, reserved, be, add, shut, have, like, refunded, returned,"
        " money back, stopped, halt, withdraw, take, off, increasing, changing, paying, making,"
        " booking, setting, scheduling, transferring, adding, moving, ordering, requesting,"
        " sending, getting, activating, applying, adjusting, raise, hold, stay, repeat, canceling,"
        " cancelling, deleting, removing, setting up, done, finish"
    ),
    split_verbs={
        ("take", "off"): Act.DELETE,
        ("turn", "off"): Act.CANCEL,
        ("switch", "off"): Act.CANCEL,
        ("shut", "off"): Act.CANCEL,
        ("turn", "on"): Act.UPDATE,
        ("switch", "on"): Act.UPDATE,
        ("check", "off"): Act.UPDATE,
    },
    about={
        "remind": ("reminder",),
        "wake": ("alarm",),
        "snooze": ("alarm",),
        "invite": ("event", "meeting"),
        "pay": ("payment", "bill"),
        "transfer": ("transfer", "payment", "transaction"),
    },
    reports=frozenset(
        listed(
            "said, says, say, saying, asked, asks, told, tells, wrote, writes, wanted, wants,"
            " called, claims, mentioned, complained"
        )
    ),
    clitics=(),
    leads={
        Lead.POLITE: listed(
            "please, kindly, go ahead, now, also, then, and, just, hi, hello, hey, ok, okay,"
            " so, plus, well, go ahead and, yes, thanks, thank you, good morning, good"
            " afternoon, but, instead, first, finally, next, quickly, assistant, or, hi there,"
            " after that, afterwards, dear, ok google, hey google, alexa, hey siri, siri,"
            " computer, echo, olly, hey olly, pda, google, cortana, yes please, sure, great,"
            " alright, right, fine"
        ),
        Lead.REQUEST: listed(
            "can you, could you, would you, will you, can you please, could you please, would you"
            " please, would you mind, i want to, i want you to, i need to, i need you to, i would"
            " like to, i'd like to, i would like you to, i'd like you to, we need to, we want to,"
            " let's, help me, don't forget to, do not forget to, remember to, i wish to, i want, i"
            " need, i'd like, i would like, we need, we want, make sure to, be sure to, you can,"
            " you may, could we, can we, i have to, i must, i'll have to,"
            " i will have to, i'll need to, i am going to need to, can you help me, help me to,"
            " try to"
        ),
        Lead.NEGATION: listed(
            "i don't want, i don't want to, i do not want, i do not want to, i don't, i do not,"
            " you don't, we don't, do not, don't, don’t, dont, never, not, no, please don't, must"
            " not, mustn't, can't, cannot, shouldn't, should not, never mind, nevermind, avoid,"
            " won't, will not, no longer, refrain from, instead of, rather than, without"
        ),
        Lead.HOW: listed(
            "how do i, how do we, how do you, how does, how can i, how can we, how can you, how"
            " to, how should i, how would i, how would, how could i, what do i need, what do i"
            " have, what happens, what if, what steps, what are the steps, what is the way, why,"
            " how does one, explain, teach me, instructions, steps, what's the way, procedure,"
            " what's the method, what is the method, what must i do, what should i do, how is,"
            " what's the process, what is the process, how are, a way to, the way to, tips, how, is"
            " there a way, is there any way, are there ways, is it possible"
        ),
        Lead.MAY: listed(
            "can i, may i, could i, should i, should we, shall i, shall we, am i allowed, must i,"
            " am i able, do i need to, do i have to, would it be"
        ),
        Lead.IF: listed(
            "if, unless, in case, whenever, once, when, as soon as, provided, provided that, while"
        ),
    },
    joins=("and", "&"),
    buts=("but", "instead", "just", "rather", "only", "then"),
    parts={
        Part.TO: listed("to, as, into, becomes, ="),
        Part.OF: listed("of, for, from, by"),
        Part.WITH: listed("with, whose, having, where, who has, which has, that has, in, on"),
        Part.WITHOUT: listed("without, with no, lacking"),
        Part.NAMED: listed("named, called, name of"),
        Part.SAYING: listed("saying, that says, which says, reading, saying that"),
        Part.EVERY: listed("all, every, each, everything, everyone, all of"),
        Part.EXCEPT: listed("except, except for, but not, other than, apart from, excluding"),
        Part.NOT: listed("not, aren't, isn't, are not, is not, that are not, never, non, wasn't"),
        Part.PRONOUN: listed("it, them, him, this one, that one, these, those, both"),
        Part.THEIRS: listed("her, his, their"),
        Part.MORE: listed("more than, over, above, greater than, at least, exceeding"),
        Part.LESS: listed("less than, under, below, at most, up to, smaller than"),
        Part.NEXT: listed("next, upcoming, soonest, nearest"),
        Part.LATEST: listed("last, latest, most recent, newest"),
        Part.YES: listed("yes, true, on"),
        Part.NO: listed("no, false, off"),
        Part.FILLER: listed(
            "the, a, an, me, my, our, your, please, i, we, us, any, some, is, are,"
            " was, were, be, been, there, have, has, number, nr, no., o'clock, now, its, about,"
            " record, records, entry, entries, do, did, does, which, what, who, when, that, at,"
            " date, id, want, need, would, like, just, today's, dr, mr, mrs, ms, miss, doctor,"
            " hello, thanks, thank, you, how, many, much, more, detail, details, information, info,"
            " list, this, or, had, they, then, also, one, ones, new, current, currently, still,"
            " only,"
            " value, worth, $, €, euros, dollars, r$, us$, reais, eur, usd, brl, +, &, long, often,"
            " where"
        ),
    },
    ended=("cancelled", "canceled", "void", "voided", "called off", "off", "turned off", "stopped"),
    adding_to=("to", "into", "on", "onto"),
    in_names=("de", "da", "dos", "van", "von", "der", "la", "bin", "al"),
    calendar=Calendar(
        days={
            "today": 0,
            "tonight": 0,
            "tomorrow": 1,
            "yesterday": -1,
            "day after tomorrow": 2,
            "the day after tomorrow": 2,
            "day before yesterday": -2,
        },
        weekdays=(
            ("monday", "mondays", "mon"),
            ("tuesday", "tuesdays", "tue"),
            ("wednesday", "wednesdays", "wed"),
            ("thursday", "thursdays", "thu"),
            ("friday", "fridays", "fri"),
            ("saturday", "saturdays"),
            ("sunday", "sundays"),
        ),
        months=listed(
            "january, february, march, april, may, june, july, august, september, october,"
            " november, december"
        ),
        units={
            "day": ("day", "days"),
            "week": ("week", "weeks"),
            "month": ("month", "months"),
            "year": ("year", "years"),
        },
        this=("this", "the current"),
        next_before=("next", "the next", "coming", "the coming"),
        next_after=(),
        last_before=("last", "the last", "past", "the past", "previous"),
        last_after=(),
        in_before=("in", "within"),
        ago_before=(),
        ago_after=("ago",),
        within=("in", "of", "during", "for", "throughout"),
        on_the=("the", "on the"),
        glue=("of", "the", ","),
        before=("before", "prior to", "older than", "earlier than"),
        until=("until", "till", "up to", "through", "by", "no later than"),
        since=("since", "starting", "starting from", "onwards from", "from"),
        after=("after", "later than", "newer than", "past"),
        between=("between",),
        from_=("from",),
        up_to=("and", "to", "until", "till", "through", "-"),
        at=("at", "@", "around", "at about"),
        hours=("o'clock", "hours", "h", "hrs"),
        half_past=(),
        named_times={"noon": 12, "midday": 12, "midnight": 0},
        parts={
            "in the morning": (0, 12),
            "this morning": (0, 12),
            "morning": (0, 12),
            "in the afternoon": (12, 18),
            "this afternoon": (12, 18),
            "afternoon": (12, 18),
            "in the evening": (18, 24),
            "this evening": (18, 24),
            "evening": (18, 24),
            "at night": (18, 24),
        },
        month_first=True,
    ),
)

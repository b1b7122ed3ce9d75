"""A tokenizer trained on captions."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CONTEXT = 64
# Words in addition to the captions, so that the class names of a user's own images need few tokens.
COMMON_WORDS = """
animal apple baby back bag ball bank bear bed bee bicycle bird black boat book bottle bowl box bread bridge
brown building bus butterfly cake camera can car castle cat chair chicken child city clock cloud coat coffee
computer cow crab cup dark day deer desk dog dolphin door dress duck eagle eye face factory field fish
floor flower food forest fox frog fruit game garden glass gold grass gray green guitar hair hammer hand hat
helmet highway horse house industrial insect island jacket key kitchen knife lake lamp land leaf left light
lion long machine man map market material metal milk monkey mountain mouse mushroom night number ocean old
open orange paper park pen pencil people permanent person phone piano pillow plane plant plate pot rabbit
rain residential ring river road rock room rose satellite school sea shark sheep ship shirt shoe short sign
silver skirt sky snake snow spider sport spring square station stone store street strawberry sun sweater
table tank television texture tiger tool top tower toy train tree trouser truck turtle type vegetable vehicle
wall watch water whale wheel white wild wind window wolf woman wood yellow young zebra zoo
a an and in is it of on or that the this to with from by for at one two
""".split()  # noqa: SIM905


def build_tokenizer(captions: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Lower-casing byte-level BPE: every text has tokens, none is unknown.

    Args:
        captions: Texts to learn the tokens from, in addition to `COMMON_WORDS`.
        vocabulary: Maximum number of tokens; there are fewer if every word is already a single token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        # The order determines the ids. The end token must not get id 2: transformers treats 2 as the mark of an
        # old faulty configuration and then pools the text at the highest id instead.
        special_tokens=["<pad>", "<unk>", "<bos>", "<eos>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*captions, *COMMON_WORDS * 16], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>",
        pair="<bos> $A $B <eos>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<bos>", "<eos>")],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=CONTEXT,
    )

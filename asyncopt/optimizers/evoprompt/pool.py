"""Prompts to begin with that suit any task: the part that the paper's step-by-step sentences have, in other words."""

SENTENCES = (
    "Think about it step by step.",
    "Take it one step at a time and check each step.",
    "Reason carefully before you give the answer.",
    "First say what is asked, then work towards it.",
    "Split the problem into smaller ones and solve these in order.",
    "Write down what is known and what follows from it.",
    "Work it out slowly, so that no detail is missed.",
    "Go through the facts one after the other, then conclude.",
    "Explain each step of your thinking in a short sentence.",
    "Look for a simple way to the answer, and follow it to the end.",
    "Consider every possibility and rule out what cannot be.",
    "Start with a plan, carry it out, and state the result.",
    "Read everything twice, and then answer with care.",
    "Be precise: use only what is stated.",
    "Solve it as a patient teacher would at the blackboard.",
    "Give your reasons first and your answer last.",
    "Find the key point and build the answer on it.",
    "Answer, doubt your answer, and correct it where it is wrong.",
    "Imagine that you have to convince an expert, and argue logically.",
    "Keep calm, think it through, and decide.",
)
